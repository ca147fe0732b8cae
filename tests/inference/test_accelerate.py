"""`accelerate`: what it converts, what it leaves alone, and what it says."""

import copy
import json

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.core.converted import Converted

X = torch.randn(16, 256)


def sparse(model, sparsity=0.95):
    ow.prune(model, ow.GradualMagnitude(ow.OneShot(sparsity)))
    return model.eval()


def mlp(sparsity=0.95):
    torch.manual_seed(0)
    return sparse(nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256)), sparsity)


class Twice(Converted):
    """A form whose time a test decides: it computes the dense product ``times`` times."""

    def __init__(self, layer, times, scale=1.0):
        super().__init__()
        self.register_buffer("kept", layer.weight.detach())
        self.register_buffer("bias", layer.bias.detach())
        self.times, self.scale = times, scale

    def forward(self, x):
        for _ in range(self.times):
            y = nn.functional.linear(x, self.kept, self.bias)
        return y * self.scale if self.times else x.new_zeros(*x.shape[:-1], len(self.kept))

    def dense(self):
        layer = nn.Linear(*reversed(self.kept.shape), device="meta")
        layer.weight, layer.bias = nn.Parameter(self.kept), nn.Parameter(self.bias)
        return layer


class Kernel:
    name = "test"

    def __init__(self, times=1, scale=1.0):
        self.times, self.scale = times, scale

    def misfit(self, layer, x):
        return None if type(layer) is nn.Linear else f"no kernel for {type(layer).__name__}"

    def convert(self, layer):
        return Twice(layer, self.times, self.scale)


class Free(Kernel):
    """A kernel that gets its outputs for nothing: it remembers them."""

    def convert(self, layer):
        form = Twice(layer, 1)
        outputs = {}

        def forward(x):
            key = (tuple(x.shape), float(x.sum()))
            if key not in outputs:
                outputs[key] = nn.functional.linear(x, form.kept, form.bias)
            return outputs[key]

        form.forward = forward
        return form


def test_outputs_are_those_of_the_dense_model_at_any_batch_size():
    model = mlp()
    fast = ow.accelerate(model, X).model
    for batch in (1, 3, 16, 65):
        x = torch.randn(batch, 256)
        assert torch.allclose(fast(x), model(x), atol=1e-5)


def test_the_model_that_is_given_stays_as_it_is():
    model = mlp().train()
    before = copy.deepcopy(model.state_dict())
    ow.accelerate(model, X, alternatives=[Free()])
    assert model.training
    assert [type(layer) for layer in model] == [nn.Linear, nn.ReLU, nn.Linear]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_faster_kernel_is_taken():
    accelerated = ow.accelerate(mlp(), X, alternatives=[Free()])
    assert [layer.kernel for layer in accelerated.layers] == ["test", "test"]
    assert accelerated.speedup > 1


def test_a_slower_kernel_is_not_taken_and_the_layer_keeps_its_parameter():
    model = mlp()
    accelerated = ow.accelerate(model, X, alternatives=[Kernel(times=4)])
    assert [layer.kernel for layer in accelerated.layers] == ["dense", "dense"]
    assert "dense is faster (test:" in accelerated.layers[0].reason
    assert accelerated.model[0].weight is model[0].weight
    assert accelerated.speedup == 1.0
    assert accelerated.nbytes == accelerated.dense_bytes


def test_a_kernel_with_other_outputs_is_not_taken():
    accelerated = ow.accelerate(mlp(), X, alternatives=[Kernel(times=0)])
    assert all(layer.kernel == "dense" and "its output differs by" in layer.reason for layer in accelerated.layers)


def test_layers_without_zeros_and_of_unknown_kinds_say_so():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    with torch.no_grad():
        model[0].weight[0] = 0
    reasons = [layer.reason for layer in ow.accelerate(model, torch.randn(4, 8), alternatives=[]).layers]
    assert reasons == ["no kernel here", "no zeros"]
    lstm = sparse(nn.Sequential(nn.LSTM(8, 8)))
    reasons = {layer.reason for layer in ow.accelerate(lstm, torch.randn(2, 4, 8)).layers}
    assert reasons == {"no kernel for LSTM"}


def test_a_layer_that_the_sample_does_not_reach_stays_dense():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.used(x)

    found = ow.accelerate(sparse(Model(), 0.5), torch.randn(4, 8), alternatives=[Free()]).layers
    assert [layer.reason for layer in found] == ["", "not called with one tensor for this sample"]


def test_a_model_that_is_one_layer_becomes_the_converted_layer():
    accelerated = ow.accelerate(sparse(nn.Linear(256, 256)), X, alternatives=[Free()])
    assert isinstance(accelerated.model, Twice)


def test_a_shared_layer_is_converted_once_and_stays_shared():
    layer = nn.Linear(256, 256)
    model = sparse(nn.Sequential(layer, nn.ReLU(), layer))
    accelerated = ow.accelerate(model, X, alternatives=[Free()])
    assert accelerated.model[0] is accelerated.model[2]
    assert accelerated.layers[0].calls == 2


def test_a_softmax_that_is_tied_to_the_embedding_is_converted_and_the_embedding_is_not():
    model = nn.Sequential(nn.Embedding(300, 256), nn.Linear(256, 300))
    model[1].weight = model[0].weight
    accelerated = ow.accelerate(sparse(model), torch.randint(0, 300, (4, 8)), alternatives=[Free()])
    assert [layer.kernel for layer in accelerated.layers] == ["dense", "test"]
    assert accelerated.model[0].weight is model[0].weight


def test_a_layer_that_the_model_keeps_in_a_list_is_converted_there_too():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(256, 256)
            self.layers = [self.layer]

        def forward(self, x):
            return self.layers[0](x)

    accelerated = ow.accelerate(sparse(Model()), X, alternatives=[Free()])
    assert accelerated.model.layers[0] is accelerated.model.layer
    assert isinstance(accelerated.model.layer, Twice)


def test_a_layer_whose_weight_other_code_reads_stays_dense_and_the_others_do_not():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.read, self.other = nn.Linear(256, 256), nn.Linear(256, 256)

        def forward(self, x):
            return self.other(self.read(x.to(self.read.weight.dtype)))

    read, other = ow.accelerate(sparse(Model()), X, alternatives=[Free()]).layers
    assert read.kernel == "dense"
    assert "other code reads it" in read.reason
    assert other.kernel == "test"


def test_the_fast_path_of_an_encoder_does_not_bypass_converted_layers():
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    model = sparse(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    accelerated = ow.accelerate(model, torch.randn(2, 8, 64), alternatives=[Free()])
    kernels = {layer.name: layer.kernel for layer in accelerated.layers}
    if accelerated.speedup > 1:  # the dense model has its fast path, which may win
        assert kernels["layers.0.linear1"] == "test"
    assert model.layers[0].activation_relu_or_gelu == 1


def test_a_model_that_draws_random_numbers_is_compared_with_the_same_ones():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(256, 256)

        def forward(self, x):
            return self.layer(x) + torch.randn(len(x), 256)

    accelerated = ow.accelerate(sparse(Noisy()), X, alternatives=[Free()])
    assert accelerated.difference < 1e-5
    assert accelerated.layers[0].kernel == "test"


def test_forward_hooks_keep_a_layer_dense():
    model = mlp()
    model[0].register_forward_hook(lambda module, args, output: output + 1)
    reasons = [layer.reason for layer in ow.accelerate(model, X, alternatives=[Free()]).layers]
    assert reasons == ["it has forward hooks", ""]


def test_a_dense_copy_has_the_weights_that_were_given():
    model = mlp()
    accelerated = ow.accelerate(model, X)
    plain = accelerated.dense_copy()
    assert plain.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in plain.state_dict().items())


def test_samples_are_tensors_tuples_or_mappings():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(256, 256)

        def forward(self, x, scale=1.0):
            return {"y": self.layer(x) * scale}

    model = sparse(Model())
    for sample in (X, (X, 2.0), {"x": X, "scale": 3.0}):
        assert ow.accelerate(model, sample, alternatives=[Free()]).difference < 1e-5


def test_the_break_even_is_between_no_zeros_and_never():
    accelerated = ow.accelerate(mlp(), X, alternatives=[Kernel(times=8)])
    assert {layer.break_even for layer in accelerated.layers} == {1.0}
    accelerated = ow.accelerate(mlp(), X, alternatives=[Free()])
    assert {layer.break_even for layer in accelerated.layers} == {0.0}


def test_the_result_prints_a_row_for_each_layer_and_is_json():
    accelerated = ow.accelerate(mlp(), X, alternatives=[Free()])
    text = str(accelerated)
    assert "x dense end to end" in text.splitlines()[0]
    assert len(text.splitlines()) == 2 + 2 + 2
    assert json.loads(json.dumps(accelerated.to_dict()))["layers"][0]["shape"] == [512, 256]


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (torch.randn(4, 255), "the model does not take the sample"),
        ("text", "the model does not take the sample"),
        ((X, X), "the model does not take the sample"),
        ({"z": X}, "the model does not take the sample"),
        (None, "the model does not take the sample"),
    ],
)
def test_a_sample_that_does_not_fit_is_one_sentence(sample, message):
    with pytest.raises(ValueError, match=message) as raised:
        ow.accelerate(mlp(), sample)
    assert "\n" not in str(raised.value)


def test_wrong_use_says_what_to_do():
    model = nn.Sequential(nn.Linear(8, 8))
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.5)))
    with pytest.raises(ValueError, match="call finalize"):
        ow.accelerate(model, torch.randn(2, 8))
    sparsifier.finalize()
    with pytest.raises(ValueError, match="rounds must be at least 4"):
        ow.accelerate(model, torch.randn(2, 8), rounds=2)
    with pytest.raises(ValueError, match="graph=True measures CUDA graphs"):
        ow.accelerate(model, torch.randn(2, 8), graph=True)
    with pytest.raises(TypeError, match=r"expected an nn.Module, got a state dict"):
        ow.accelerate(model.state_dict(), torch.randn(2, 8))


def test_a_model_with_converted_layers_is_refused_where_its_numbers_would_be_wrong(tmp_path):
    model = nn.Sequential(Twice(nn.Linear(256, 512), 1), nn.ReLU(), nn.Linear(512, 256))
    half = ow.GradualMagnitude(ow.OneShot(0.5))
    uses = (
        ow.report,
        lambda m: ow.accelerate(m, X, rounds=4),
        lambda m: ow.shrink(m, X),
        lambda m: ow.sparsify(m, half),
        lambda m: ow.prune(m, half),
        lambda m: ow.save(m, tmp_path / "model.safetensors"),
    )
    for use in uses:
        with pytest.raises(ValueError, match=r"^accelerate converted 0, .* pass dense_copy\(\) of what it returned$"):
            use(model)
    with pytest.raises(ValueError, match=r"^accelerate converted the model, which has no parameters then"):
        ow.report(model[0])
    with pytest.raises(ValueError, match=r"^accelerate converted 1\.0, which has no parameters then"):
        ow.save(nn.Sequential(nn.Linear(2, 2), model), tmp_path / "model.safetensors")
    assert not [*tmp_path.iterdir()]
