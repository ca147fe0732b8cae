"""`accelerate` on models and samples that are not as simple as they look."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import openwork as ow
from openwork.inference.csr import CSRLinear
from openwork.inference.on_cpu import SparseConvolutionOnCPU, SparseOnCPU
from openwork.inference.on_gpu import PackedLinear
from tests.inference.test_accelerate import Free, sparse
from tests.kernels.test_sparse import needs_compiler

X = torch.randn(16, 256)


class Calls(nn.Module):
    """One sparse layer, and what a function makes of it and the input."""

    def __init__(self, function, layers=1):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(256, 256) for _ in range(layers))
        self.register_buffer("count", torch.zeros(()))
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def accelerated(function, sample=X, layers=1, alternative=None):
    return ow.accelerate(sparse(Calls(function, layers)), sample, alternatives=[alternative or Free()])


def through(model, x):
    for layer in model.layers:
        x = layer(x)
    return x


def test_one_layer_stays_dense_where_code_needs_any_parameter():
    found = accelerated(lambda model, x: through(model, x.to(next(model.parameters()).dtype)), layers=3).layers
    assert [layer.kernel for layer in found] == ["test", "test", "dense"]
    assert "other code reads it" in found[2].reason


@needs_compiler
@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_infinities_that_only_a_dense_product_turns_to_nan_keep_the_model_dense(value):
    x = X.clone()
    x[0, 0] = value
    found = accelerated(through, x, layers=2, alternative=AlwaysFaster())
    assert [layer.reason for layer in found.layers] == ["outputs of the model differ by inf"] * 2


class AlwaysFaster(SparseOnCPU):
    """Our kernel, which gets its outputs for nothing: it remembers them."""

    def convert(self, layer):
        form = super().convert(layer)
        forward, outputs = form.forward, {}

        def remembered(x):
            key = (tuple(x.shape), float(x.flatten()[-1]))
            if key not in outputs:
                outputs[key] = forward(x)
            return outputs[key]

        form.forward = remembered
        return form


@dataclass
class Output:
    y: Tensor


@pytest.mark.parametrize("wrap", [lambda y: Output(y), lambda y: {"y": [Output(y)]}, torch.fft.fft])
def test_outputs_in_dataclasses_and_complex_ones_are_compared(wrap):
    def wrong_at_last(model, x):
        return wrap(model.layers[0](x) + (type(model.layers[0]) is not nn.Linear))

    assert "outputs of the model differ" in accelerated(wrong_at_last).layers[0].reason


@needs_compiler
def test_outputs_of_another_dtype_keep_the_model_dense():
    def autocast(model, x):
        with torch.autocast("cpu", torch.bfloat16):
            return through(model, x)

    assert accelerated(autocast, alternative=AlwaysFaster()).model(X).dtype == torch.bfloat16


def test_random_numbers_and_buffers_and_samples_are_afterwards_what_they_were():
    def counts(model, x):
        model.count += 1
        x += 1
        return through(model, x) + torch.randn(()) + model.count

    sample, model = X.clone(), sparse(Calls(counts))
    state = torch.get_rng_state()
    found = ow.accelerate(model, sample, alternatives=[Free()])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(sample, X)
    assert float(model.count) == float(found.model.count) == 0


def test_a_layer_with_sparse_or_nested_inputs_stays_dense():
    layer = sparse(nn.Linear(256, 256))
    for x in (X.relu().to_sparse(), torch.nested.nested_tensor([X[:2], X[:5]], layout=torch.jagged)):
        assert "not called with one" in ow.accelerate(layer, x, alternatives=[Free()]).layers[0].reason


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_an_encoder_takes_a_padding_mask_that_the_sample_had_not():
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    model = sparse(nn.TransformerEncoder(layer, 2))
    with torch.no_grad():
        for parameter in model.layers[0].parameters():
            parameter.add_(0.01)  # no zeros: this layer stays dense, and would make a nested tensor for the next
    x, mask = torch.randn(2, 8, 64), torch.arange(8).expand(2, 8) > 5
    fast = ow.accelerate(model, x, alternatives=[Free()]).model
    with torch.no_grad():
        assert torch.allclose(
            fast(x, src_key_padding_mask=mask)[:, :6], model(x, src_key_padding_mask=mask)[:, :6], atol=1e-5
        )
    ow.accelerate(model, {"src": x, "src_key_padding_mask": mask}, alternatives=[Free()])


def test_a_model_that_is_one_layer_has_no_name_in_the_table():
    found = ow.accelerate(sparse(nn.Linear(256, 256)), X, alternatives=[Free()])
    assert found.layers[0].name == ""
    assert "(model)" in str(found)


def forms():
    layer = sparse(nn.Linear(12, 7), 0.5)
    return {"CSR": CSRLinear(layer), "ours": SparseOnCPU().convert(layer), "lanes": PackedLinear(layer)}


@pytest.mark.parametrize("kind", ["CSR", "lanes", pytest.param("ours", marks=needs_compiler)])
@pytest.mark.parametrize("width", [5, 13])
def test_an_input_of_another_width_is_refused_and_not_read_behind_its_end(kind, width):
    with pytest.raises(ValueError, match="the input must"):
        forms()[kind](torch.randn(3, width))


@pytest.mark.parametrize("kind", ["CSR", pytest.param("ours", marks=needs_compiler)])
def test_a_linear_form_computes_in_float32_under_autocast(kind):
    form, x = forms()[kind], torch.randn(3, 12)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(form(x.bfloat16()), form(x.bfloat16().float()))


@needs_compiler
def test_a_convolution_computes_in_float32_under_autocast():
    form, x = SparseConvolutionOnCPU().convert(sparse(nn.Conv2d(3, 4, 3), 0.5)), torch.randn(2, 3, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(form(x.bfloat16()), form(x.bfloat16().float()))


@needs_compiler
def test_our_kernel_takes_a_sparse_input_as_the_dense_layer_does():
    layer = sparse(nn.Linear(12, 7), 0.5)
    x = torch.randn(3, 12).relu()
    with torch.no_grad():
        assert torch.allclose(SparseOnCPU().convert(layer)(x.to_sparse()), layer(x), atol=1e-6)
