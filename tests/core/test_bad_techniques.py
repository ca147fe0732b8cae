"""A technique whose settings or methods do not fit is refused in one sentence, before anything changes."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import openwork as ow
from tests.core.everything import Everything
from tests.helpers import conv_net, raises

HALF = ow.OneShot(0.5)


class Magnitude(ow.MaskTechnique):
    def scores(self, view):
        return view.weight.abs()


@dataclass(frozen=True)
class OldScores(ow.MaskTechnique):
    def scores(self, weight, mask, generator, reference):
        return weight.abs()


@dataclass(frozen=True)
class OldGrowth(Magnitude):
    regrows: ClassVar[bool] = True

    def growth(self, view, gradient):
        return gradient


@dataclass(frozen=True)
class OldSolve(Magnitude):
    solves: ClassVar[bool] = True

    def solve(self, view):
        return view.mask, view.weight


@dataclass(frozen=True)
class NoGrowth(Magnitude):
    regrows: ClassVar[bool] = True


@dataclass(frozen=True)
class NoSolve(Magnitude):
    solves: ClassVar[bool] = True


@pytest.mark.parametrize(
    ("error", "technique", "words"),
    [
        (
            TypeError,
            OldScores(HALF),
            "OldScores.scores takes (weight, mask, generator, reference) and must take (view)",
        ),
        (TypeError, OldGrowth(HALF), "OldGrowth.growth takes (view, gradient) and must take (view)"),
        (TypeError, OldSolve(HALF), "OldSolve.solve takes (view) and must take (view, keep, ties)"),
        (TypeError, NoGrowth(HALF), "NoGrowth regrows weights and has no growth; give it a method growth(view)"),
        (
            TypeError,
            NoSolve(HALF),
            "NoSolve solves for weights and has no solve; give it a method solve(view, keep, ties)",
        ),
        (TypeError, "magnitude", "expected a technique such as GradualMagnitude(...), got 'magnitude'"),
        (TypeError, ow.RigL, "expected a technique such as GradualMagnitude(...), got <class"),
    ],
)
def test_methods_that_do_not_fit(error, technique, words):
    model = conv_net()
    before = Everything(model)
    with raises(error, words):
        ow.sparsify(model, technique)
    before.assert_unchanged()


@pytest.mark.parametrize("kind", [ow.GradualMagnitude, ow.RigL, ow.SET, ow.Movement, ow.SNIP, ow.Wanda, Magnitude])
def test_a_schedule_that_is_none(kind):
    for value in (0.9, None, ow.OneShot):
        with raises(TypeError, "schedule must be a schedule such as OneShot("):
            kind(value)


def test_a_sparsity_is_a_fraction():
    for value in (90, -0.1, 1.0):
        with raises(ValueError, f"sparsity must be in [0, 1), got {value}; did you pass a percentage?"):
            ow.SNIP(ow.OneShot(value))


def test_a_threshold_has_no_sparsity_to_spread():
    for allocation in (ow.GlobalRanking(), ow.ERK()):
        with raises(ValueError, "Threshold() keeps what reaches the threshold; leave out allocation="):
            ow.GradualMagnitude(HALF, criterion=ow.Threshold(), allocation=allocation)
    for pattern, final in ((ow.NM(2, 4), 0.5), (ow.PerOutput(), 0.3)):
        with raises(ValueError, "gives every tensor the same sparsity; leave out criterion=Threshold()"):
            ow.GradualMagnitude(ow.OneShot(final), criterion=ow.Threshold(), pattern=pattern)
        with raises(ValueError, "gives every tensor the same sparsity; leave out allocation=GlobalRanking()"):
            ow.GradualMagnitude(ow.OneShot(final), allocation=ow.GlobalRanking(), pattern=pattern)


def test_gradients_need_an_attached_optimizer():
    for technique in (ow.RigL(ow.Constant(0.5, every=1, stop=4)), ow.Movement(ow.Cubic(0.5, end=4))):
        model = nn.Linear(4, 4)
        sparsifier = ow.sparsify(model, technique)
        before = Everything(model, sparsifier)
        name = type(technique).__name__
        with raises(ValueError, f"{name} reads gradients around optimizer.step(); attach the optimizer instead"):
            sparsifier.step()
        before.assert_unchanged()
        assert sparsifier.steps == 0


def test_a_schedule_that_leaves_its_range_is_named_in_the_step():
    @dataclass(frozen=True)
    class Wild(ow.Schedule):
        final: float = 0.5

        def __call__(self, step):
            return 1.5 if step == 2 else 0.5

        def due(self, step):
            return True

    model = nn.Linear(4, 4)
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(Wild()))
    sparsifier.step()
    with raises(ValueError, "sparsity must be in [0, 1), got 1.5; check the schedule"):
        sparsifier.step()
    assert int((model.weight == 0).sum()) == 8
    sparsifier.step()
    assert sparsifier.steps == 3


def test_growth_of_another_shape_is_refused():
    @dataclass(frozen=True)
    class Flat(Magnitude):
        regrows: ClassVar[bool] = True

        def growth(self, view):
            return torch.ones(3)

    sparsifier = ow.sparsify(nn.Linear(4, 4), Flat(ow.Constant(0.5, every=1)))
    with raises(TypeError, "Flat must return scores of the shape (4, 4)", "of shape (3,) for weight"):
        sparsifier.step()
