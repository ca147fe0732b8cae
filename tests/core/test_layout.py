"""Patterns and the report run along the axes that a layer multiplies, whatever the layer and however it stores them."""

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.core.layout import Layout, layout_of
from tests.helpers import conv_net

HALF = ow.OneShot(0.5)


class Experts(nn.Module):
    """As transformers writes them: three experts, 8 inputs and 4 outputs."""

    def __init__(self, transposed):
        super().__init__()
        self.is_transposed = transposed
        self.proj = nn.Parameter(torch.rand((3, 8, 4) if transposed else (3, 4, 8)) + 1)
        self.proj_bias = nn.Parameter(torch.zeros(3, 4))

    def forward(self, x):  # (3, n, 8) -> (3, n, 4)
        return x @ (self.proj if self.is_transposed else self.proj.transpose(1, 2)) + self.proj_bias[:, None]


class Own(nn.Module):
    """A user's module, of which nothing is known."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.rand(2, 3, 4, 8) + 1)
        self.head = nn.Linear(8, 8)


def pruned(module, pattern, select=ow.weight_matrices, sparsity=0.5):
    technique = ow.GradualMagnitude(ow.OneShot(sparsity), pattern=pattern)
    return ow.sparsify(module, technique, select=select).finalize()


def by_output(module):
    """What each output of each expert multiplies: (3, 4, 8)."""
    weight = module.proj.detach()
    return weight.transpose(1, 2) if module.is_transposed else weight


@pytest.mark.parametrize("transposed", [False, True])
def test_two_of_four_runs_along_the_inputs_of_each_expert(transposed):
    module = pruned(Experts(transposed), ow.NM(2, 4))
    assert ((by_output(module).reshape(-1, 4) != 0).sum(1) == 2).all()
    (layer,) = ow.report(module).layers
    assert layer.groups["2:4"] == 1.0


@pytest.mark.parametrize("transposed", [False, True])
def test_a_row_is_one_output_of_one_expert_and_a_column_one_input(transposed):
    module = Experts(transposed)
    with torch.no_grad():
        module.proj.mul_(torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1))
    # the scale of the experts decides: 6 of 12 rows go, 4 of the first expert and 2 of the second
    rows = by_output(pruned(module, ow.Rows())).ne(0).sum(2)
    assert rows.unique().tolist() == [0, 8]
    assert (rows == 0).sum(1).tolist() == [4, 2, 0]
    columns = by_output(pruned(Experts(transposed), ow.Columns())).ne(0).sum(1)
    assert columns.unique().tolist() == [0, 4]
    assert int((columns == 0).sum()) == 12


@pytest.mark.parametrize("transposed", [False, True])
def test_dead_outputs_change_nothing_but_the_bias(transposed):
    module = pruned(Experts(transposed), ow.Rows())
    dead = (module(torch.randn(3, 5, 8)) == 0).all(1)  # the biases are 0
    (layer,) = ow.report(module).layers
    assert layer.dead_outputs == int(dead.sum()) == 6
    assert layer.dead_inputs == 8 * int(dead.all(1).sum())  # those of experts without an output


@pytest.mark.parametrize("transposed", [False, True])
def test_the_outputs_of_each_expert_keep_the_same_number(transposed):
    module = pruned(Experts(transposed), ow.PerOutput(), sparsity=0.75)
    assert (by_output(module).ne(0).sum(2) == 2).all()


@pytest.mark.parametrize("pattern", [ow.Block(2, 4), ow.Block(-1, 2), ow.Block(2, -1)])
@pytest.mark.parametrize("transposed", [False, True])
def test_blocks_lie_within_one_expert(pattern, transposed):
    module = pruned(Experts(transposed), pattern)
    height, width = 4 if pattern.height == -1 else pattern.height, 8 if pattern.width == -1 else pattern.width
    blocks = by_output(module).reshape(3, 4 // height, height, 8 // width, width).ne(0).sum((2, 4))
    assert blocks.unique().tolist() == [0, height * width]


def test_experts_are_selected_by_default_and_their_biases_are_not():
    sparsifier = ow.sparsify(Experts(True), ow.GradualMagnitude(HALF))
    assert [weight.name for weight in sparsifier.weights] == ["proj"]
    assert sparsifier.skipped == {"proj_bias": "select does not pick the proj_bias of a Experts"}


@pytest.mark.parametrize("name", ["Mixtral", "GptOss"])
def test_the_experts_of_transformers(name):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, head_dim=8,
    )  # fmt: skip
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    pruned(model, ow.NM(2, 4))
    weight = model.model.layers[0].mlp.experts.down_proj.detach()
    by_output = weight.transpose(1, 2) if name == "GptOss" else weight
    assert ((by_output.reshape(-1, 4) != 0).sum(1) == 2).all()
    found = ow.report(model)
    assert {layer.groups["2:4"] for layer in found.layers} == {1.0}
    assert sum(layer.weights for layer in found.layers if "experts" in layer.name) == 2 * 4 * 3 * 32 * 64


def test_an_unknown_layout_is_left_out_with_the_cure_and_pruned_where_no_pattern_needs_it():
    module = Own()
    both = ow.matching("*", among=lambda name, parameter, module: parameter.dim() > 1)
    sparsifier = ow.sparsify(module, ow.GradualMagnitude(HALF, pattern=ow.NM(2, 4)), select=both)
    assert [weight.name for weight in sparsifier.weights] == ["head.weight"]
    assert "it is not known which axes of w (2, 3, 4, 8) a Own multiplies" in sparsifier.skipped["w"]
    assert "declare_layout(Own, {'w': " in sparsifier.skipped["w"]
    with pytest.raises(ValueError, match="fits none of the selected weights: w: it is not known which axes"):
        pruned(Own(), ow.Rows(), select=ow.matching("w", among=ow.all_parameters))
    assert int((pruned(Own(), ow.Unstructured(), select=both).w == 0).sum()) == 96
    assert ow.report(Own(), select=both).layers[0].groups == {}


@pytest.mark.parametrize(
    "words", ["layers experts out in", "in experts out out", "out in in experts", "in in out heads"]
)
def test_a_declared_layout_is_followed_and_selected(words):
    class Declared(Own):
        pass

    ow.declare_layout(Declared, {"w": words})
    axes = words.split()
    module = pruned(Declared(), ow.Rows(), select="w")
    inputs = [place for place, word in enumerate(axes) if word == "in"]
    fan_in = torch.tensor([module.w.shape[place] for place in inputs]).prod()
    assert module.w.ne(0).sum(inputs).unique().tolist() == [0, int(fan_in)]
    assert "w" in {layer.name for layer in ow.report(module).layers}
    assert not hasattr(Own, "_openwork_layout")


def test_wrong_declarations_are_refused():
    with pytest.raises(
        ValueError, match=r"the layout of w must say where outputs and inputs lie, .* got 'experts x in'"
    ):
        ow.declare_layout(Own, {"w": "experts x in"})
    with pytest.raises(TypeError, match="declare_layout takes a type of module such as MyExperts, got Own"):
        ow.declare_layout(Own(), "out in")

    class Short(Own):
        pass

    ow.declare_layout(Short, {"w": "out in"})
    with pytest.raises(
        ValueError, match=r"the layout 'out in' declared for w of Short has 2 axes and its shape is \(2, 3"
    ):
        pruned(Short(), ow.Rows())


def test_a_column_of_a_grouped_convolution_is_one_input_channel():
    conv = nn.Conv2d(4, 6, 3, groups=2)  # channels 0, 1 feed outputs 0-2, and 2, 3 outputs 3-5
    with torch.no_grad():
        conv.weight[:3, 1] = conv.weight[3:, 0] = 1e-3  # those of channels 1 and 2
    pruned(conv, ow.Columns())
    x = torch.eye(4).view(4, 4, 1, 1).expand(4, 4, 5, 5)  # one channel at a time
    moved = (conv(x) - conv(torch.zeros(1, 4, 5, 5))).abs().amax((1, 2, 3)) > 0
    assert moved.tolist() == [True, False, False, True]
    (layer,) = ow.report(conv).layers
    assert (layer.dead_inputs, layer.dead_outputs) == (2, 0)


@pytest.mark.parametrize("module", [nn.ConvTranspose1d(4, 6, 3, groups=2), nn.Conv1d(4, 6, 3, groups=2)])
def test_a_row_of_a_grouped_convolution_is_one_output_map(module):
    nn.init.zeros_(module.bias)
    y = pruned(module, ow.Rows())(torch.randn(2, 4, 9))
    assert int((y == 0).all(0).all(1).sum()) == 3


def test_depthwise_filters_are_rows_and_inputs():
    conv = pruned(nn.Conv2d(8, 8, 3, groups=8), ow.Rows())
    (layer,) = ow.report(conv).layers
    assert (layer.dead_outputs, layer.dead_inputs) == (4, 4)


def test_the_conv1d_of_transformers_stores_inputs_first():
    class Conv1D(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.rand(8, 6) + 1)

    module = pruned(Conv1D(), ow.NM(2, 4))
    assert ((module.weight.t().reshape(-1, 4) != 0).sum(1) == 2).all()


@pytest.mark.parametrize(
    ("module", "leaf", "shape"),
    [
        (nn.MultiheadAttention(8, 2), "in_proj_weight", (1, 24, 8)),
        (nn.EmbeddingBag(5, 4), "weight", (1, 5, 4)),
        (nn.Bilinear(2, 3, 4), "weight", (1, 4, 2, 3)),
        (nn.LSTM(3, 4), "weight_ih_l0", (1, 16, 3)),
        (nn.LSTM(3, 4, proj_size=2), "weight_hr_l0", (1, 2, 4)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), "weight", (2, 3, 2, 3, 3)),
        (nn.Conv3d(4, 8, 1, groups=4), "weight", (4, 2, 1, 1, 1, 1)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_torchs_layers_as_matrices(module, leaf, shape):
    stored = getattr(module, leaf)
    layout = layout_of(module, leaf, stored.shape)
    assert layout.shape == shape
    for along in ("outputs", "inputs"):
        assert torch.equal(layout.as_stored(layout.merged(stored, along), along), stored)


def test_norms_and_biases_hold_no_matrices():
    assert layout_of(nn.LayerNorm((2, 4)), "weight", (2, 4)) is None
    assert layout_of(nn.Linear(2, 4), "bias", (4,)) is None
    sparsifier = ow.sparsify(
        nn.Sequential(nn.LayerNorm((4, 4)), nn.Linear(4, 4)),
        ow.GradualMagnitude(HALF, pattern=ow.Rows()),
        select=ow.all_parameters,
    )
    assert (
        sparsifier.skipped["0.weight"] == "a LayerNorm multiplies with single elements of its weight, not with a matrix"
    )


def test_a_layout_keeps_every_element():
    layout = Layout(("a", "in", "out", "kernel", "in"), (2, 3, 4, 5, 6))
    stored = torch.arange(720).view(2, 3, 4, 5, 6)
    assert layout.shape == (2, 4, 18, 5)
    assert layout.matrices(stored)[1, 2, 1 * 6 + 4, 3] == stored[1, 1, 2, 3, 4]


@pytest.mark.parametrize("transposed", [True, False])
def test_wanda_on_experts_looks_at_the_inputs_of_each(transposed):
    experts, x = Experts(transposed), torch.randn(3, 5, 8)
    dense = experts.proj.detach().mT.clone() if transposed else experts.proj.detach().clone()
    ow.sparsify(experts, ow.Wanda(HALF), calibrate=lambda model: model(x)).finalize()
    scores = dense * x.square().sum(1).sqrt()[:, None]
    expected = torch.zeros_like(dense, dtype=torch.bool).scatter_(2, scores.topk(4, dim=2).indices, True)
    assert torch.equal((experts.proj.mT if transposed else experts.proj) != 0, expected)


def test_a_pattern_that_sees_one_matrix_leaves_several_out():
    class First(ow.Rows):
        along = None

    model = nn.Sequential(conv_net()[0], nn.Conv2d(4, 4, 3, groups=2))
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(HALF, pattern=First()))
    assert "sees one matrix, and it holds 2" in sparsifier.skipped["1.weight"]
