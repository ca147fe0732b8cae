"""Weights of several matrices that no layer multiplies alone: groups of convolutions, and attention's projections."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

import openwork as ow
from tests.helpers import raises
from tests.techniques.one_shot import EVERY_PATTERN, HALF

TECHNIQUES = [ow.Wanda, ow.RIA, ow.DSnoT, ow.SparseGPT, partial(ow.ADMM, gradual=False)]
PER_OUTPUT = {"pattern": ow.PerOutput()}


def pruned(layer, technique, x):
    ow.sparsify(layer, technique, calibrate=lambda model: model(*x)).finalize()
    return layer.weight.detach()


GROUPS = {"two": (2, {"stride": 2}), "one for each output": (4, {"padding": 1})}


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("name", GROUPS)
def test_each_group_of_a_convolution_is_pruned_by_its_own_channels(technique, name):
    groups, settings = GROUPS[name]
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 4, 3, groups=groups, **settings).double()
    x = torch.randn(6, 8, 9, 9, dtype=torch.float64) * torch.arange(1, 9)[:, None, None]
    alone = []
    for weight, some in zip(layer.weight.detach().chunk(groups), x.chunk(groups, 1), strict=True):
        one = nn.Conv2d(8 // groups, 4 // groups, 3, **settings).double()
        with torch.no_grad():
            one.weight.copy_(weight)
        alone.append(pruned(one, technique(HALF, **PER_OUTPUT), (some,)))
    torch.testing.assert_close(pruned(layer, technique(HALF, **PER_OUTPUT), (x,)), torch.cat(alone))


@pytest.mark.parametrize("pattern", EVERY_PATTERN)
@pytest.mark.parametrize("technique", [ow.Wanda, ow.SparseGPT, ow.ADMM, ow.ALPS])
def test_groups_can_have_every_pattern(technique, pattern):
    torch.manual_seed(0)
    layer = nn.Conv1d(32, 16, 3, groups=2)
    weight = pruned(layer, technique(HALF, pattern=EVERY_PATTERN[pattern]), (torch.randn(9, 32, 20),))
    assert int((weight == 0).sum()) == weight.numel() // 2


def test_a_group_whose_channels_are_always_0_needs_no_warning():
    torch.manual_seed(0)
    x = torch.randn(3, 4, 9)
    x[:, 2:] = 0
    assert int((pruned(nn.Conv1d(4, 4, 3, groups=2), ow.Wanda(HALF), (x,)) == 0).sum()) == 12


class Attending(nn.Module):
    """Attention, computed as torch does, but by layers of its own, which can be observed."""

    def __init__(self, attention):
        super().__init__()
        width = attention.embed_dim
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.heads = attention.num_heads
        with torch.no_grad():
            for layer, weight in zip((self.query, self.key, self.value), parts(attention), strict=True):
                layer.weight = nn.Parameter(weight.clone())
                layer.bias.zero_()
            self.out.weight.copy_(attention.out_proj.weight)

    def forward(self, query, key, value):
        split = [
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, query), (self.key, key), (self.value, value))
        ]
        return self.out(nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2))


def parts(attention):
    """Its matrices of query, key and value."""
    if attention.in_proj_weight is not None:
        return attention.in_proj_weight.detach().chunk(3)
    return [weight.detach() for weight in (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)]


SEEDED = torch.Generator().manual_seed(0)
X, MEMORY, OTHER = (torch.randn(3, size, width, generator=SEEDED) for size, width in ((7, 8), (5, 6), (5, 4)))
CALLS = {"self": ((X, X), {}), "cross": ((MEMORY, OTHER), {"kdim": 6, "vdim": 4})}


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("technique", [ow.Wanda, ow.SparseGPT])
def test_attention_is_pruned_as_if_its_projections_were_layers(technique, call, batch_first):
    memory, sizes = CALLS[call]
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first, **sizes)
    twin, given, heads = Attending(attention), (X, *memory), attention.out_proj
    there = given if batch_first else [each.transpose(0, 1) for each in given]
    there = [there[0]] * 3 if call == "self" else there
    ow.sparsify(attention, technique(HALF, **PER_OUTPUT), calibrate=lambda model: model(*there)).finalize()
    ow.sparsify(twin, technique(HALF, **PER_OUTPUT), calibrate=lambda model: model(*given)).finalize()
    assert attention.out_proj is heads
    layers = (twin.query, twin.key, twin.value, twin.out)
    for one, layer in zip((*parts(attention), attention.out_proj.weight), layers, strict=True):
        torch.testing.assert_close(one, layer.weight, rtol=1e-4, atol=1e-5)


def test_equal_tensors_are_one_input():
    found = []
    for given in ((X, X, X), (X, X.clone(), X.clone())):
        torch.manual_seed(0)
        attention = nn.MultiheadAttention(8, 2, batch_first=True)
        ow.sparsify(attention, ow.Wanda(HALF), calibrate=lambda model, given=given: model(*given)).finalize()
        found.append(attention.in_proj_weight.detach())
    assert torch.equal(*found)


def test_a_packed_weight_of_several_inputs_is_refused():
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    before = copy.deepcopy(attention)
    with raises(
        ValueError, "in_proj_weight holds the matrices of a query, a key and a value that differ", "excluding("
    ):
        ow.sparsify(attention, ow.Wanda(HALF), calibrate=lambda model: model(X, X * 2, X))
    assert all(torch.equal(a, b) for a, b in zip(attention.parameters(), before.parameters(), strict=True))


@pytest.mark.parametrize("batch_first", [True, False])
def test_torchs_encoder_is_pruned_whole_and_padding_is_no_input(batch_first):
    hidden = torch.arange(7).expand(3, 7) >= torch.tensor([[3], [7], [5]])
    found = []
    for x in (X, torch.where(hidden[..., None], X + 1, X)):
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
        model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        src = x if batch_first else x.transpose(0, 1)
        result = ow.prune(model, ow.Wanda(HALF), batches=[{"src": src, "src_key_padding_mask": hidden}])
        assert (len(result.layers), result.sparsity) == (8, 0.5)
        found.append(model)
    for one, other in zip(found[0].parameters(), found[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_torchs_decoder_keeps_its_packed_cross_attention_dense_and_says_so():
    torch.manual_seed(0)
    model = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), 2)
    batch = {"tgt": X, "memory": torch.randn(3, 5, 8)}
    result = ow.prune(model, ow.Wanda(HALF), batches=[batch])
    crossing = [f"layers.{number}.multihead_attn.in_proj_weight" for number in (0, 1)]
    assert list(result.skipped) == crossing
    assert result.skipped[crossing[0]].endswith("that differ, and a matrix has one kind of input")
    assert len(result.layers) == 10
    with raises(ValueError, crossing[0], "leave it out with"):
        ow.prune(model, ow.Wanda(HALF), batches=[batch], blocks="layers.*")


class Remembering(nn.Module):
    """An attention that looks at its memory where it gets one, or at its input."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.last = nn.Linear(8, 8)

    def forward(self, x, memory=None):
        return self.last(self.attention(x, *[x if memory is None else memory] * 2, need_weights=False)[0])


ALONE, WITH = {"x": X}, {"x": X, "memory": torch.randn(3, 5, 8, generator=SEEDED)}


@pytest.mark.parametrize("batches", [[WITH], [ALONE, WITH], [WITH, ALONE], [ALONE, ALONE, WITH]])
def test_an_attention_that_crosses_in_any_batch_keeps_its_packed_weight_and_the_others_are_pruned(batches):
    result = ow.prune(model := Remembering(), ow.Wanda(HALF), batches=batches)
    assert [layer.name for layer in result.layers] == ["attention.out_proj.weight", "last.weight"]
    assert list(result.skipped) == ["attention.in_proj_weight"]
    assert int((model.attention.out_proj.weight == 0).sum()) == 32


def test_an_attention_that_crosses_in_no_batch_is_pruned_whole():
    result = ow.prune(Remembering(), ow.Wanda(HALF), batches=[ALONE, ALONE])
    assert [layer.name for layer in result.layers] == [
        "attention.in_proj_weight", "attention.out_proj.weight", "last.weight"
    ]  # fmt: skip
    assert result.skipped == {}
