"""Layers converted to our sparse kernels on a CPU."""

import copy
import pickle

import pytest
import torch
from torch import nn

from openwork.inference.csr import CSR
from openwork.inference.on_cpu import SparseConvolutionOnCPU, SparseOnCPU
from tests.kernels.test_sparse import needs_compiler, random_sparse

pytestmark = needs_compiler


def sparse_layer(layer, sparsity=0.7):
    with torch.no_grad():
        layer.weight.copy_(random_sparse(*layer.weight.shape, sparsity=sparsity))
    return layer.eval()


def conv1d():
    return pytest.importorskip("transformers.pytorch_utils").Conv1D(7, 12)  # 12 to 7


LINEAR = {"linear": lambda: nn.Linear(12, 7), "no bias": lambda: nn.Linear(12, 7, bias=False), "Conv1D": conv1d}


def check(alternative, layer, x):
    before = copy.deepcopy(layer.state_dict())
    assert alternative.misfit(layer, x) is None
    form = alternative.convert(layer)
    with torch.inference_mode():
        torch.testing.assert_close(form(x), layer(x), rtol=1e-4, atol=1e-5)
    dense = form.dense()
    assert type(dense) is type(layer)
    assert dense.extra_repr() == layer.extra_repr()
    assert not dense.training
    for state in (dense.state_dict(), layer.state_dict()):
        assert state.keys() == before.keys()
        assert all(torch.equal(state[name], before[name]) for name in before)


@pytest.mark.parametrize("kind", LINEAR)
def test_a_converted_linear_layer_computes_the_same_and_comes_back_bit_for_bit(kind):
    check(SparseOnCPU(), sparse_layer(LINEAR[kind]()), torch.randn(3, 5, 12))


CONVOLUTIONS = {
    "1x1": (nn.Conv2d(6, 10, 1), (2, 6, 9, 7)),
    "3x3": (nn.Conv2d(6, 10, 3, padding=1, bias=False), (1, 6, 14, 14)),
    "stride": (nn.Conv2d(3, 70, 7, stride=2, padding=3), (2, 3, 40, 33)),
    "uneven": (nn.Conv2d(3, 4, (3, 2), stride=(1, 3), padding=(2, 0), dilation=(2, 1)), (2, 3, 11, 12)),
    "groups": (nn.Conv2d(6, 9, 3, groups=3, padding=1), (2, 6, 8, 8)),
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6, padding=1), (2, 6, 8, 8)),
    "same": (nn.Conv2d(3, 4, 5, padding="same", dilation=2), (2, 3, 9, 9)),
    "valid": (nn.Conv2d(3, 4, 5, padding="valid"), (2, 3, 9, 9)),
    "one image": (nn.Conv2d(3, 4, 3), (3, 9, 9)),
    "no image": (nn.Conv2d(3, 4, 3), (0, 3, 9, 9)),
    "one dimension": (nn.Conv1d(3, 4, 5, stride=2, padding=2, dilation=3), (2, 3, 50)),
    "one row": (nn.Conv1d(3, 4, 5), (3, 50)),
    "70,000 columns": (nn.Conv2d(7_800, 2, 3, padding=1), (1, 7_800, 3, 3)),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_converted_convolution_computes_the_same_and_comes_back_bit_for_bit(kind):
    layer, shape = CONVOLUTIONS[kind]
    layer = sparse_layer(copy.deepcopy(layer), 0.8)
    with torch.no_grad():
        for parameter in layer.parameters():  # whole numbers, whose sums are exact in any order
            parameter.copy_((8 * parameter / parameter.abs().max()).round())
    check(SparseConvolutionOnCPU(), layer, torch.randint(-4, 5, shape).float())


def test_a_convolution_takes_images_in_channels_last():
    layer = sparse_layer(nn.Conv2d(4, 5, 3, padding=1))
    x = torch.randn(2, 4, 6, 7).to(memory_format=torch.channels_last)
    check(SparseConvolutionOnCPU(), layer, x)


def test_a_converted_layer_holds_no_dense_weight():
    form = SparseOnCPU().convert(sparse_layer(nn.Linear(100, 50), 0.9))
    nonzeros = len(form.values)
    assert form.nbytes == nonzeros * (4 + 2) + 51 * 8 + 50 * 4
    assert not list(form.parameters())


def test_converted_layers_can_be_copied_pickled_and_loaded():
    form = SparseOnCPU().convert(sparse_layer(nn.Linear(12, 7)))
    x = torch.randn(2, 12)
    for again in (copy.deepcopy(form), pickle.loads(pickle.dumps(form))):
        assert torch.equal(again(x), form(x))
    other = SparseOnCPU().convert(sparse_layer(nn.Linear(12, 7)))
    other.load_state_dict(form.state_dict())
    assert torch.equal(other(x), form(x))


def test_misfits_are_named():
    alternative = SparseOnCPU()
    linear, x = nn.Linear(4, 4), torch.randn(2, 4)

    class Scaled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    assert alternative.misfit(linear, x) is None
    assert alternative.misfit(Scaled(4, 4), x) == "no kernel for Scaled"
    assert alternative.misfit(nn.LayerNorm(4), x) == "no kernel for LayerNorm"
    assert alternative.misfit(linear, x.double()) == "the kernel computes in float32, not in torch.float64"
    assert alternative.misfit(nn.Linear(4, 4, dtype=torch.bfloat16), x) is not None
    assert alternative.misfit(linear, x.to("meta")) == "the kernel computes on a CPU, not on meta"
    alternative, x = SparseConvolutionOnCPU(), torch.randn(1, 4, 8, 8)
    assert alternative.misfit(nn.ConvTranspose2d(4, 4, 3), x) == "no kernel for ConvTranspose2d"
    assert "padding_mode='circular'" in alternative.misfit(nn.Conv2d(4, 4, 3, padding_mode="circular"), x)
    assert "of an even kernel" in alternative.misfit(nn.Conv2d(4, 4, 2, padding="same"), x)


@pytest.mark.slow
def test_a_compiled_model_of_converted_layers_is_one_graph_for_every_batch():
    convolution, linear = sparse_layer(nn.Conv2d(2, 4, 3, stride=2, padding=1)), sparse_layer(nn.Linear(12, 7))
    dense = nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), linear)
    forms = SparseConvolutionOnCPU().convert(convolution), SparseOnCPU().convert(linear)
    model = nn.Sequential(forms[0], nn.ReLU(), nn.Flatten(), forms[1])
    compiled_model = torch.compile(model, fullgraph=True, dynamic=True)
    with torch.inference_mode():
        for batch in (4, 1, 5, 40):
            x = torch.randn(batch, 2, 2, 5)
            torch.testing.assert_close(compiled_model(x), dense(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_a_converted_layer_of_another_dtype_says_what_to_convert_instead(dtype):
    for alternative, layer, shape in (
        (SparseOnCPU(), nn.Linear(12, 7), (2, 12)),
        (SparseConvolutionOnCPU(), nn.Conv2d(3, 4, 3), (1, 3, 6, 6)),
        (CSR(), nn.Linear(12, 7), (2, 12)),
    ):
        form = alternative.convert(sparse_layer(layer)).to(dtype)
        x = torch.randn(shape).to(dtype)
        if dtype == torch.float64 and isinstance(alternative, CSR):
            torch.testing.assert_close(form(x).float(), layer(x.float()), rtol=1e-4, atol=1e-5)
        else:
            with pytest.raises(ValueError, match=r"the kernel computes in float32; convert dense_copy\(\) of what"):
                form(x)
