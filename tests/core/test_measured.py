"""Evidence that differentiates what a calibration returns, sees each of its backward passes, or asks for rounds."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import openwork as ow
from openwork.core.snapshot import computing_with
from tests.core.test_calibration import assert_untouched, network, traces
from tests.helpers import conv_net, image_batches, raises

HALF = ow.OneShot(0.5)
X, Y = torch.randn(5, 6, generator=torch.Generator().manual_seed(1)), torch.arange(5) % 3


@dataclass(frozen=True)
class Gradients(ow.Evidence):
    """The gradient of the sum of the losses."""

    def measure(self, model, weights, run):
        found = torch.autograd.grad(sum(run()), list(weights.values()))
        return dict(zip(weights, found, strict=True))


@dataclass(frozen=True)
class Measures(ow.MaskTechnique):
    """SNIP by `measure`."""

    evidence: ClassVar[ow.Evidence] = Gradients(returns="a loss")

    def scores(self, view):
        return (view.evidence["measured"] * view.weight).abs()


@dataclass(frozen=True)
class Squares(ow.Evidence):
    """The sum of the squares of the gradients of all backward passes."""

    def gradient(self, kept, weight, gradient):
        kept["squares"] = kept.get("squares", torch.zeros_like(gradient)) + gradient.square()


@dataclass(frozen=True)
class Fisher(ow.MaskTechnique):
    """w^2 times the diagonal of the empirical Fisher."""

    evidence: ClassVar[ow.Evidence] = Squares(gradients="every backward")
    seen: ClassVar[dict] = {}

    def scores(self, view):
        self.seen[view.name] = view.evidence["squares"]
        return view.weight.square() * view.evidence["squares"]


def loss(model):
    return F.cross_entropy(model(X), Y)


def each(model):
    """A backward pass for each example."""
    for x, y in zip(X, Y, strict=True):
        F.cross_entropy(model(x[None]), y[None]).backward()


TECHNIQUES = {
    "measures": (Measures(HALF), loss),
    "GraSP": (ow.GraSP(HALF), loss),
    "SynFlow": (ow.SynFlow(HALF, rounds=3), lambda model: model(X)),
    "every backward": (Fisher(HALF), lambda model: each(model.eval())),
    "rounds": (ow.SNIP(HALF, rounds=3), lambda model: loss(model).backward()),
}


@pytest.mark.parametrize("name", TECHNIQUES)
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_that_a_calibration_touches_is_changed_afterwards(name, fails):
    technique, run = TECHNIQUES[name]
    model = network()
    model[1].forward = lambda x: x + torch.rand(())  # noise from torch's generator
    model[2].eval()
    model[0].weight.grad = torch.ones(8, 6)
    model[4].bias.requires_grad_(False)
    if name == "SynFlow":
        model[1].forward = lambda x: x
    before = traces(model)
    dtypes = {key: tensor.dtype for key, tensor in model.state_dict().items()}

    def runs(model):
        found = run(model)
        if fails:
            raise KeyError("no batch")
        return found

    if fails:
        with pytest.raises(KeyError, match="no batch"):
            ow.sparsify(model, technique, calibrate=runs)
    else:
        assert ow.sparsify(model, technique, calibrate=runs).sparsity() == 0.5
    assert_untouched(before, traces(model), except_weights=not fails)
    assert dtypes == {key: tensor.dtype for key, tensor in model.state_dict().items()}
    assert all(len(p._post_accumulate_grad_hooks or ()) == (not fails and "weight" in n and p.dim() > 1)
               for n, p in model.named_parameters())  # fmt: skip


def test_what_is_measured_equals_what_a_backward_gives():
    masks = []
    for technique, run in [
        (Measures(HALF), loss),
        (ow.SNIP(HALF, allocation=ow.Uniform()), lambda m: loss(m).backward()),
    ]:
        model = network()
        model[3].p = 0.0
        model[1].forward = lambda x: x
        masks.append(ow.sparsify(model, technique, calibrate=run).masks())
    assert all(torch.equal(mask, masks[1][name]) for name, mask in masks[0].items())


def test_every_backward_shows_its_own_gradient():
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    expected = torch.zeros(3, 6)
    for x, y in zip(X, Y, strict=True):
        expected += torch.autograd.grad(F.cross_entropy(model(x[None]), y[None]), model.weight)[0].square()
    sparsifier = ow.sparsify(model, Fisher(HALF), calibrate=each)
    assert torch.equal(Fisher.seen["weight"], expected)
    assert sparsifier.state_dict()["evidence"] == {}  # it is as large as it likes, and nobody needs it again


def test_every_backward_of_a_tied_weight_comes_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.last.weight = self.first.weight

        def forward(self, x):
            return self.last(self.first(x))

    model = Twice()
    x = torch.randn(2, 3)
    (expected,) = torch.autograd.grad(model(x).sum(), model.first.weight)
    ow.sparsify(model, Fisher(HALF), calibrate=lambda model: model(x).sum().backward())
    torch.testing.assert_close(Fisher.seen["first.weight"], expected.square())


def test_evidence_whose_parts_do_not_fit_is_refused():
    with raises(ValueError, "returns must be 'nothing', 'a loss' or 'outputs', got 'loss'"):
        ow.Evidence(returns="loss")
    with raises(ValueError, "gradients='at updates' are those of a backward(), and returns='a loss' leaves that to"):
        ow.Evidence(gradients="at updates", returns="a loss")

    class Silent(Measures):
        evidence = Gradients()

    class Empty(Measures):
        evidence = ow.Evidence(returns="outputs")

    with raises(TypeError, "Gradients has a method measure that nothing calls; pass Gradients(returns='a loss')"):
        ow.sparsify(conv_net(), Silent(HALF))
    with raises(TypeError, "Evidence needs outputs and has no measure; give it a method measure(model, weights, run)"):
        ow.sparsify(conv_net(), Empty(HALF))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "Says.measure must return a tensor of shape (4, 2, 3, 3) for 0.weight, and returned a NoneType"),
        ({"0.weight": torch.ones(4)}, "for 0.weight, and returned a tensor of shape (4,)"),
        ({"0.weight": torch.ones(4, 2, 3, 3)}, "for 3.weight, and returned a NoneType"),
    ],
)
def test_measure_must_return_a_tensor_for_each_weight(found, words):
    class Says(ow.Evidence):
        def measure(self, model, weights, run):
            return found

    class Asks(Measures):
        evidence = Says(returns="a loss")

    with raises(TypeError, words):
        ow.sparsify(conv_net(), Asks(HALF), calibrate=lambda model: model(next(image_batches())[0]).sum())


def test_a_backward_that_never_comes_is_refused():
    with raises(ValueError, "the calibration left no gradient on 0.weight; call backward()"):
        ow.sparsify(network(), Fisher(HALF), calibrate=lambda model: model(X))
    with raises(
        ValueError, "Fisher looks at gradients, and OneShot", "pass calibrate=lambda model: loss(model).backward()"
    ):
        ow.sparsify(network(), Fisher(HALF))
    with raises(ValueError, "Fisher prunes once, by what a calibration shows before training", "give it OneShot(0.5)"):
        ow.sparsify(network(), Fisher(ow.OneShot(0.5, at=2)), calibrate=each)


def test_a_model_computes_with_other_values_for_a_while():
    model = network()
    values = [p.data_ptr() for p in model.parameters()] + [b.data_ptr() for b in model.buffers()]
    with computing_with(model, lambda name, value: torch.full_like(value, 2.0, dtype=torch.float64)):
        assert {p.dtype for p in model.parameters()} == {torch.float64}
        assert float(model[2].running_var[0]) == 2.0
        assert model[2].num_batches_tracked.dtype == torch.int64
    assert values == [p.data_ptr() for p in model.parameters()] + [b.data_ptr() for b in model.buffers()]
