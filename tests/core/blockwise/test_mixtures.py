"""Experts, whatever modules they are: padding is no input, and one that no token reaches goes by its weights."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import openwork as ow
from tests.core.blockwise.models import HALF
from tests.core.blockwise.test_prune import equal
from tests.helpers import raises

X, OTHER = torch.randn(2, 3, 7, 8, generator=torch.Generator().manual_seed(0))
MASK = torch.arange(7).expand(3, 7) < torch.tensor([[3], [7], [5]])
ALONE = "no input reached it: pruned by its weights alone"


class Listed(nn.Module):
    """A mixture whose experts are modules, each of which gets the tokens that were picked for it."""

    def __init__(self, *, bias=True, reached=3):
        super().__init__()
        self.gate = nn.Linear(8, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 16, bias), nn.ReLU(), nn.Linear(16, 8, bias)) for _ in range(3)
        )
        self.reached = reached

    def forward(self, x):
        tokens = x.flatten(0, -2)
        chosen = self.gate(tokens)[:, : self.reached].argmax(1)
        out = torch.zeros_like(tokens)
        for number in chosen.unique():
            out[chosen == number] = self.experts[number](tokens[chosen == number])
        return x + out.view_as(x), chosen


class Fused(nn.Module):
    """A mixture whose experts are one parameter."""

    def __init__(self, *, reached=3, asked=True):
        super().__init__()
        self.gate = nn.Linear(8, 3)
        self.experts = FusedExperts()
        self.reached, self.asked = reached, asked

    def forward(self, x):
        tokens = x.flatten(0, -2)
        chosen = self.gate(tokens)[:, : self.reached].argmax(1)
        return x + (self.experts(tokens, chosen).view_as(x) if self.asked else 0), chosen


class FusedExperts(nn.Module):
    is_transposed = False

    def __init__(self):
        super().__init__()
        self.proj = nn.Parameter(torch.randn(3, 8, 8))
        self.bias = nn.Parameter(torch.randn(3, 8))

    def forward(self, tokens, chosen):
        out = torch.zeros_like(tokens)
        for number in chosen.unique():
            out[chosen == number] = F.linear(tokens[chosen == number], self.proj[number], self.bias[number])
        return out


class Mixed(nn.Module):
    """Layers of a linear one and a mixture, for tokens or for (positions, batch, size)."""

    def __init__(self, mixture, *, layers=2, turned=False):
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleDict({"up": nn.Linear(8, 8), "moe": mixture()}) for _ in range(layers))
        for number, layer in enumerate(self.layers):
            self.layers[number] = Part(layer)
        self.turned = turned

    def forward(self, x, attention_mask=None):
        x = x.transpose(0, 1) if self.turned else x
        for layer in self.layers:
            x = layer(x)
        return x


class Part(nn.Module):
    def __init__(self, parts):
        super().__init__()
        self.up, self.moe = parts["up"], parts["moe"]

    def forward(self, x):
        return self.moe(self.up(x))[0]


def pruned(mixture, x=X, mask=MASK, technique=HALF, **settings):
    torch.manual_seed(0)
    model = Mixed(mixture, **settings)
    return model, ow.prune(model, technique, batches=[{"x": x} if mask is None else {"x": x, "attention_mask": mask}])


IDLE = pytest.mark.filterwarnings("ignore:no token of the calibration reached")
DSNOT = ow.DSnoT(ow.OneShot(0.5))


@IDLE
@pytest.mark.parametrize(
    ("mixture", "settings"),
    [
        (Listed, {}),
        (Fused, {}),
        (Listed, {"layers": 1}),
        (Fused, {"layers": 1, "technique": DSNOT}),
        (Listed, {"turned": True, "technique": DSNOT}),
        (Fused, {"turned": True}),
    ],
    ids=["listed", "fused", "a listed layer", "a fused layer", "listed, turned", "fused, turned"],
)
def test_padding_is_no_input_of_experts(mixture, settings):
    first, other = (pruned(mixture, x, **settings)[0] for x in (X, torch.where(MASK[..., None], X, OTHER)))
    assert equal(first, other)
    assert not equal(first, pruned(mixture, mask=None, **settings)[0])


@IDLE
def test_experts_see_the_tokens_as_they_would_without_padding():
    short, shorter = X[:2, :3], torch.ones(2, 3).bool()
    padded = F.pad(short, (0, 0, 0, 2), value=3.0)
    mask = F.pad(shorter, (0, 2))
    for mixture in (Listed, Fused):
        assert equal(pruned(mixture, short, None)[0], pruned(mixture, padded, mask)[0])


@pytest.mark.parametrize(
    ("technique", "select", "reconstruct"),
    [(HALF, "*.moe.*", False), (HALF, "*.experts", True), (ow.SparseGPT(ow.OneShot(0.5)), "*.experts", False)],
    ids=["and the router", "reconstructed", "solved"],
)
def test_fused_experts_that_no_token_reaches_go_by_their_weights(technique, select, reconstruct):
    torch.manual_seed(0)
    model = Mixed(lambda: Fused(asked=False))
    magnitude = copy.deepcopy(model)
    ow.prune(magnitude, ow.GradualMagnitude(ow.OneShot(0.5), pattern=technique.pattern))
    result = ow.prune(model, technique, batches=[X], select=select, reconstruct=reconstruct)
    layers = [layer for layer in result.layers if "experts" in layer.name]
    assert [(layer.remark, layer.error) for layer in layers] == [(ALONE, None)] * 2
    for one, other in zip(model.layers, magnitude.layers, strict=True):
        torch.testing.assert_close(one.moe.experts.proj, other.moe.experts.proj)


def test_an_expert_that_is_selected_alone_and_gets_nothing_goes_by_its_weights():
    torch.manual_seed(0)
    model = Mixed(lambda: Listed(reached=2))
    result = ow.prune(model, HALF, batches=[X], select="*.experts.2")
    assert [layer.remark for layer in result.layers] == [ALONE] * 4
    assert result.sparsity == 0.5


def test_experts_that_multiply_their_tokens_unseen_are_an_error():
    class Unseen(FusedExperts):
        def forward(self, tokens, chosen):
            return torch.einsum("ni,oi->no", tokens, self.proj[0])

    torch.manual_seed(0)
    model = Mixed(Fused)
    for layer in model.layers:
        layer.moe.experts.__class__ = Unseen
    with raises(ValueError, "the calibration called no layer with layers.0.moe.experts.proj"):
        ow.prune(model, HALF, batches=[X])


class Together(Listed):
    """Its router compares all tokens, and so padding, too."""

    def forward(self, x):
        return super().forward(x - x.mean((0, 1)) * 9)


def test_where_padding_cannot_be_left_out_it_counts_and_that_is_said():
    with pytest.warns(UserWarning, match="which inputs of the experts of a Together are padding, so that all count"):
        pruned(Together)


def test_the_experts_of_a_single_mixture_are_one_block():
    torch.manual_seed(0)
    model, lines = Listed(), []

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.moe, self.head = model, nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.moe(x)[0])

    result = ow.prune(Whole(), HALF, batches=[X], progress=lines.append)
    assert [line.split(",")[0] for line in lines] == ["1 of 2: moe", "2 of 2: head"]
    assert len(result.layers) == 8
