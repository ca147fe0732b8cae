"""A calibration shows inputs and gradients to the evidence, and leaves no other trace in the model."""

import copy
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import openwork as ow
from openwork.core.masks.inputs import rows
from openwork.core.selection import Site
from tests.helpers import Tied, raises

HALF = ow.OneShot(0.5)
ROWS: list[torch.Tensor] = []


@dataclass(frozen=True)
class Noted(ow.Evidence):
    """Notes the rows that it is shown."""

    def input(self, kept, rows):
        ROWS.append(rows)


@dataclass(frozen=True)
class Looks(ow.MaskTechnique):
    """Magnitude pruning that looks at inputs, too."""

    evidence: ClassVar[ow.Evidence] = Noted(inputs=True)

    def scores(self, view):
        return view.weight.abs()


class Conv1D(nn.Module):
    """As in transformers: (in, out) weights, known by the name of the class."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4))

    def forward(self, x):
        return x @ self.weight


class Stateful(nn.Module):
    """A buffer that forward passes write to, and one that the first of them makes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("made", None)

    def forward(self, x):
        self.count += 1
        self.made = x.sum()
        return x + torch.rand(())


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), Stateful(), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))


def traces(model):
    """All that a calibration could leave behind."""
    return {
        "values": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "buffers": [dict(module._buffers) for module in model.modules()],
        "gradients": [
            (p.grad, None if p.grad is None else p.grad.clone(), p.requires_grad) for p in model.parameters()
        ],
        "modes": [module.training for module in model.modules()],
        "hooks": [len(hooks(m)) for m in model.modules() for hooks in (lambda m: m._forward_pre_hooks, vars)],
        "random": torch.get_rng_state(),
    }


def assert_untouched(before, after, except_weights=False):
    for name, value in before["values"].items():
        assert torch.equal(value, after["values"][name]) or (except_weights and "weight" in name), name
    assert [[*b] for b in before["buffers"]] == [[*b] for b in after["buffers"]]
    for one, two in zip(before["buffers"], after["buffers"], strict=True):
        assert all(one[name] is two[name] for name in one)
    for (grad, value, trained), (same, now, still) in zip(before["gradients"], after["gradients"], strict=True):
        assert grad is same
        assert grad is None or torch.equal(value, now)
        assert trained == still
    assert before["modes"] == after["modes"]
    assert before["hooks"] == after["hooks"]
    assert torch.equal(before["random"], after["random"])


def gathers(model):
    """Forward and backward in another mode, with everything around it changed."""
    model.eval()
    model.train()
    model[0].bias.requires_grad_(False)
    loss = F.cross_entropy(model(torch.randn(5, 6)), torch.arange(5) % 3)
    if torch.is_grad_enabled():  # only where gradients are evidence
        loss.backward()
    model[3].eval()


@pytest.mark.parametrize("technique", [ow.SNIP(HALF), ow.Wanda(HALF)], ids=["gradients", "inputs"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_calibration_leaves_no_trace_also_where_it_fails(technique, fails):
    model = network()
    model[2].eval()
    model[0].weight.grad = torch.ones(8, 6)
    before = traces(model)

    def run(model):
        gathers(model)
        if fails:
            raise KeyError("no batch")

    if fails:
        with pytest.raises(KeyError, match="no batch"):
            ow.sparsify(model, technique, calibrate=run)
        assert all(not parameter._post_accumulate_grad_hooks for parameter in model.parameters())
    else:
        ow.sparsify(model, technique, calibrate=run)
        assert model[0].weight.count_nonzero() < 48
    assert_untouched(before, traces(model), except_weights=not fails)


LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), (2, 3, 6)),
    "Conv1D": (Conv1D, (2, 3, 6)),
    "conv 1d": (lambda: nn.Conv1d(3, 4, 3, stride=2, padding=2, dilation=2), (2, 3, 9)),
    "conv 2d": (lambda: nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (2, 3, 8, 7)),
    "conv 2d same": (lambda: nn.Conv2d(3, 4, (4, 3), padding="same", dilation=2), (2, 3, 6, 7)),
    "conv 2d valid": (lambda: nn.Conv2d(3, 4, 3, padding="valid"), (2, 3, 6, 7)),
    "conv 2d circular": (lambda: nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode="circular"), (2, 3, 6, 7)),
    "conv 2d reflect": (lambda: nn.Conv2d(3, 4, 3, padding=2, stride=2, padding_mode="reflect"), (2, 3, 6, 7)),
    "conv 2d replicate": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="replicate"), (2, 3, 6, 7)),
    "conv 2d without a batch": (lambda: nn.Conv2d(3, 4, 3), (3, 6, 7)),
    "conv 3d": (lambda: nn.Conv3d(2, 4, (1, 2, 3), stride=(1, 2, 1), padding=1), (2, 2, 4, 5, 6)),
    "grouped conv 1d": (lambda: nn.Conv1d(6, 4, 3, groups=2, stride=2), (2, 6, 9)),
    "grouped conv 2d without a batch": (lambda: nn.Conv2d(6, 4, (2, 3), groups=2, dilation=2), (6, 8, 7)),
    "depthwise conv 2d": (lambda: nn.Conv2d(4, 4, 3, groups=4, padding=1, padding_mode="circular"), (2, 4, 6, 7)),
    "conv 3d of a channel and two": (lambda: nn.Conv3d(2, 4, (1, 2, 3), groups=2), (2, 2, 4, 5, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_the_weight_are_what_the_layer_computes(name):
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer, x = make().double(), torch.randn(shape, dtype=torch.float64)
    matrices = (layer.weight.T if name == "Conv1D" else layer.weight.flatten(1)).chunk(getattr(layer, "groups", 1))
    bias = getattr(layer, "bias", None)
    inputs = rows(Site("weight", layer, "weight", layer), (x,), {})
    products = [some @ matrix.T for some, matrix in zip(inputs, matrices, strict=True)]
    found = torch.cat(products, 1) + (0 if bias is None else bias)
    output = layer(x)
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        output = output.movedim(-len(layer.kernel_size) - 1, -1)
    torch.testing.assert_close(found, output.reshape(-1, 4))


@pytest.mark.parametrize("name", LAYERS)
def test_every_such_layer_can_be_pruned_by_its_inputs(name):
    make, shape = LAYERS[name]
    model = nn.Sequential(make())
    ow.sparsify(model, ow.Wanda(HALF), calibrate=lambda model: model(torch.randn(shape))).finalize()
    assert int((model[0].weight == 0).sum()) == model[0].weight.numel() // 2


class Calls(nn.Module):
    """Calls one layer by keyword, twice, and shares its weight with another."""

    def __init__(self):
        super().__init__()
        self.layer, self.twin = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.twin.weight = self.layer.weight

    def forward(self, x):
        return self.twin(self.layer(input=self.layer(input=x)))


def test_inputs_come_from_every_call_and_every_layer_that_shares_the_weight():
    model = Calls()
    ROWS.clear()
    x = torch.randn(3, 4)
    dense = copy.deepcopy(model)
    ow.sparsify(model, Looks(HALF), calibrate=lambda model: model(x))
    once = dense.layer(x)
    for found, expected in zip(ROWS, (x, once, dense.layer(once)), strict=True):
        assert torch.equal(found, expected)
        assert not found.requires_grad


def test_inputs_under_autocast_are_summed_in_float32():
    layer = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1.0, 1.0, 1.0]]))
    x = torch.tensor([[300.0, 1.0, 400.0, 2.0]], dtype=torch.float16)  # whose squares float16 does not hold

    def run(model):
        with torch.autocast("cpu", torch.bfloat16):
            model(x)

    ow.sparsify(layer, ow.Wanda(HALF), calibrate=run)
    assert layer.weight.tolist() == [[1.0, 0.0, 1.0, 0.0]]


def test_a_calibration_stops_before_its_optimizer_moves_a_weight():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = traces(model)

    def run(model):
        gathers(model)
        optimizer.step()

    with raises(ValueError, "the calibration steps SGD; it must run forward and backward only"):
        ow.sparsify(model, ow.SNIP(HALF), calibrate=run)
    assert_untouched(before, traces(model))
    other = torch.optim.SGD([torch.zeros(1, requires_grad=True)])  # of another model, and afterwards any

    def elsewhere(model):
        gathers(model)
        other.step()

    ow.sparsify(model, ow.SNIP(HALF), calibrate=elsewhere)
    optimizer.step()


def test_a_calibration_that_gives_nothing_is_refused():
    model = network()

    def moves(model):
        gathers(model)
        with torch.no_grad():
            model[0].weight += 1

    for technique, run, words in [
        (ow.SNIP(HALF), moves, "the calibration moved 0.weight; it must run forward and backward only, without an"),
        (ow.SNIP(HALF), lambda model: model(torch.randn(2, 6)), "left no gradient on 0.weight; call backward()"),
        (ow.Wanda(HALF), lambda model: model[0](torch.randn(2, 6)), "called no layer with 4.weight; run batches"),
        (ow.Wanda(HALF), None, "Wanda looks at the inputs of layers, which sparsify sees only in a calibration; pass"),
        (ow.SNIP(HALF), None, "prunes before there are any; pass calibrate=lambda model: loss(model).backward()"),
        (ow.GradualMagnitude(HALF), gathers, "GradualMagnitude looks at the weights alone; leave out calibrate="),
        (ow.L0(ow.Constant(0.1)), gathers, "L0 looks at the weights alone; leave out calibrate="),
        (ow.SNIP(ow.OneShot(0.5, at=1)), gathers, "SNIP takes its gradients from training; leave out calibrate="),
    ]:
        with raises(ValueError, words):
            ow.sparsify(model, technique, calibrate=run)
        assert (model[4].weight != 0).all()


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
@pytest.mark.parametrize("technique", [ow.SNIP(HALF), ow.FORCE(HALF, rounds=2), ow.OBS(HALF, damping=1.0)], ids=repr)
def test_an_embedding_whose_forward_rescales_its_weight_is_refused_with_the_cure(technique, kind):
    model = nn.Sequential(kind(9, 4, max_norm=0.5), nn.Linear(4, 2))
    before = model[0].weight.detach().clone()

    def run(model):
        model(torch.arange(8).view(4, 2)).sum().backward()

    said = f"0.weight: each forward of an {kind.__name__} with max_norm rescales the rows that it looks up"
    with raises(ValueError, said, "set its max_norm to None until sparsify has returned", "excluding('0.weight')"):
        ow.sparsify(model, technique, calibrate=run)
    assert torch.equal(model[0].weight, before)
    model[0].max_norm = None
    sparsifier = ow.sparsify(model, technique, calibrate=run)
    model[0].max_norm = 0.5
    model(torch.arange(8).view(4, 2))
    assert sparsifier.sparsity() == pytest.approx(0.5, abs=0.05)
    left = nn.Sequential(kind(9, 4, max_norm=0.5), nn.Linear(4, 2))
    assert ow.sparsify(left, technique, select=ow.excluding("0.weight"), calibrate=run).sparsity() == 0.5


def test_a_layer_that_writes_to_its_weight_is_no_optimizer():
    class Bounded(nn.Linear):
        def forward(self, x):
            with torch.no_grad():
                self.weight.clamp_(-1, 1)
            return super().forward(x)

    with raises(ValueError, "the calibration moved weight; ", "through layers that do not write to their weights"):
        ow.sparsify(Bounded(6, 4), ow.SNIP(HALF), calibrate=lambda model: model(torch.randn(2, 6)).sum().backward())


def test_inputs_that_cannot_be_observed_and_frozen_weights_are_refused_before_the_calibration():
    def never(model):
        raise AssertionError

    transposed = nn.Sequential(nn.ConvTranspose2d(4, 4, 3, groups=2))
    with raises(ValueError, "0.weight (ConvTranspose2d) cannot be observed", "excluding('0.weight')"):
        ow.sparsify(transposed, ow.Wanda(HALF), calibrate=never)
    with raises(ValueError, "embedding.weight (Embedding) cannot be observed"):
        ow.sparsify(Tied(), ow.Wanda(HALF), calibrate=never)
    frozen = network()
    frozen[0].weight.requires_grad_(False)
    with raises(ValueError, "SNIP looks at gradients, and 0.weight is frozen; leave it out with"):
        ow.sparsify(frozen, ow.SNIP(HALF), calibrate=never)


def test_activations_are_kept_for_gradients_alone():
    seen = []

    def run(model):
        seen.append(torch.is_grad_enabled())
        loss = model(torch.randn(4, 6)).sum()
        if torch.is_grad_enabled():
            loss.backward()

    ow.sparsify(nn.Linear(6, 2), ow.Wanda(HALF), calibrate=run)
    ow.sparsify(nn.Linear(6, 2), ow.SNIP(HALF), calibrate=run)
    assert seen == [False, True]
