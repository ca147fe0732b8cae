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
    for pattern, final, reason in (
        (ow.NM(2, 4), 0.5, "gives every tensor the same sparsity"),
        (ow.PerOutput(), 0.3, "compares the weights of each output alone"),
    ):
        with raises(ValueError, f"{reason}; leave out criterion=Threshold()"):
            ow.GradualMagnitude(ow.OneShot(final), criterion=ow.Threshold(), pattern=pattern)
        for allocation in (ow.GlobalRanking(), ow.LAMP()):
            with raises(ValueError, f"{reason}; leave out allocation={allocation}"):
                ow.GradualMagnitude(ow.OneShot(final), allocation=allocation, pattern=pattern)


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


def returning(**found):
    """A technique whose methods return these values, and whose other attributes they are."""
    methods = {
        "scores": lambda self, view: found["scores"],
        "growth": lambda self, view: found["growth"],
        "exchange": lambda self, step: found["exchange"],
        "solve": lambda self, view, keep, ties: found["solve"],
    }
    return type("Mine", (Magnitude,), {name: methods.get(name, value) for name, value in found.items()})


@pytest.mark.parametrize(
    "found",
    [
        None,
        3.0,
        torch.ones(4, 4).numpy(),
        torch.ones(4, 4, dtype=torch.complex64),
        torch.ones(4, 4, device="meta"),
        torch.ones(4, 4).to_sparse(),
    ],
    ids=lambda found: type(found).__name__,
)
def test_scores_that_are_no_tensor_of_real_numbers(found):
    model = nn.Linear(4, 4)
    before = Everything(model)
    with raises(TypeError, "Mine must return scores of the shape (4, 4)", "for weight; compute scores from"):
        ow.sparsify(model, returning(scores=found)(HALF))
    before.assert_unchanged()


def test_growth_by_whole_numbers_is_growth():
    model = nn.Linear(4, 4)
    technique = returning(growth=torch.arange(16).reshape(4, 4), exchange=1.0, regrows=True)
    sparsifier = ow.sparsify(model, technique(ow.Constant(0.5, every=1)))
    sparsifier.step()
    assert sparsifier.masks()["weight"].flatten().tolist() == [False] * 8 + [True] * 8


def test_a_method_that_writes_to_what_it_sees():
    class Twice(Magnitude):
        def scores(self, view):
            return view.weight.abs_()

    model = nn.Linear(4, 4)
    before = Everything(model)
    with raises(RuntimeError, "Twice.scores changed view.weight of weight in place; work on a copy"):
        ow.sparsify(model, Twice(HALF))
    before.assert_unchanged()


@pytest.mark.parametrize("what", ["weight", "gradient"])
def test_evidence_that_writes_to_what_it_sees(what):
    class Writes(ow.Evidence):
        def gradient(self, kept, weight, gradient):
            {"weight": weight, "gradient": gradient}[what].zero_()

    model = nn.Linear(4, 4)
    technique = returning(evidence=Writes("every step"))(ow.OneShot(0.5, at=3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ow.sparsify(model, technique).attach(optimizer)
    model(torch.ones(1, 4)).sum().backward()
    name = {"weight": "weight", "gradient": "weight.grad"}[what]
    with raises(RuntimeError, f"Writes.gradient changed {name} in place; work on a copy"):
        optimizer.step()


def test_a_gradient_that_is_kept_as_it_came_stays_that_of_its_step():
    class Keeps(ow.Evidence):
        def gradient(self, kept, weight, gradient):
            kept["gradient"] = gradient

    class Largest(Magnitude):
        evidence = Keeps("every step")

        def scores(self, view):
            return view.evidence["gradient"]

    model = nn.Linear(4, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = ow.sparsify(model, Largest(ow.OneShot(0.5, at=1))).attach(optimizer)

    def overwrite(*_):
        model.weight.grad.zero_()

    optimizer.register_step_pre_hook(overwrite)
    model(torch.tensor([[1.0, 4.0, 3.0, 2.0]])).sum().backward()
    optimizer.step()
    assert sparsifier.masks()["weight"].tolist() == [[False, True, True, False]]


class Listens(ow.Evidence):
    def gradient(self, kept, weight, gradient):
        kept["gradient"] = gradient.clone()


class Looks(ow.Evidence):
    def input(self, kept, rows):
        kept["rows"] = rows


class Two(ow.Evidence):
    def gradient(self, kept, gradient):
        kept["gradient"] = gradient.clone()


class Begins(ow.Evidence):
    def begin(self, weight):
        return {"count": 0}


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        (
            {"growth": 1, "exchange": 0.3},
            "Mine has a method growth that nothing calls; set regrows = True in the class",
        ),
        ({"solve": None}, "Mine has a method solve that nothing calls; set solves = True in the class"),
        ({"evidence": ow.Evidence}, "Mine.evidence must be an instance of Evidence such as"),
        ({"evidence": {"gradients": "every step"}}, "Mine.evidence must be an instance of Evidence such as"),
        (
            {"evidence": Listens()},
            "Listens has a method gradient that nothing calls; pass Listens(gradients='at updates')",
        ),
        ({"evidence": Looks()}, "Looks has a method input that nothing calls; pass Looks(inputs=True)"),
        ({"evidence": ow.Evidence(inputs=True)}, "Evidence looks at inputs and has no input; give it a method input("),
        ({"evidence": Two("every step")}, "Two.gradient takes (kept, gradient) and must take (kept, weight, gradient)"),
        ({"evidence": Begins()}, "Begins.begin must return a dict of tensors, and returned {'count': 0}"),
    ],
)
def test_methods_that_nothing_would_call_and_evidence_that_is_none(methods, words):
    model = nn.Linear(4, 4)
    before = Everything(model)
    with raises(TypeError, words):
        ow.sparsify(model, returning(**methods)(HALF))
    before.assert_unchanged()


def test_evidence_takes_gradients_at_known_times():
    for word in ("always", True, None):
        with raises(
            ValueError, f"gradients must be 'never', 'at updates', 'every step' or 'every backward', got {word!r}"
        ):
            ow.Evidence(word)


def test_an_exchange_that_says_nothing():
    technique = returning(growth=torch.ones(4, 4), exchange=None, regrows=True)
    sparsifier = ow.sparsify(nn.Linear(4, 4), technique(ow.Constant(0.5, every=1)))
    with raises(ValueError, "Mine.exchange must return a fraction in [0, 1], got None"):
        sparsifier.step()


@pytest.mark.parametrize("found", [None, torch.ones(4, 4).bool(), (1, 2), (torch.ones(4, 4).bool().numpy(), None)])
def test_a_solution_is_two_tensors(found):
    model = nn.Linear(4, 4)
    before = Everything(model)
    with raises(RuntimeError, "Mine.solve returned a ", "for weight; return two tensors, mask and weights"):
        ow.sparsify(model, returning(solve=found, solves=True)(HALF))
    before.assert_unchanged()


def test_a_solution_of_higher_precision_is_rounded():
    mask = torch.arange(16).reshape(4, 4) < 8
    model = nn.Linear(4, 4)
    ow.sparsify(model, returning(solve=(mask, mask.double() / 3), solves=True)(HALF))
    assert torch.equal(model.weight, mask.float() / 3)


def test_parts_that_are_names_or_classes():
    for part, value, words in (
        ("allocation", "erk", "allocation must be an instance of Allocation such as ERK(), got 'erk'"),
        ("allocation", ow.ERK, "allocation must be an instance of Allocation such as ERK(), got <class"),
        ("pattern", "2:4", "pattern must be an instance of Pattern such as NM(2, 4), got '2:4'"),
        ("criterion", ow.Threshold, "criterion must be an instance of Criterion such as Threshold(), got <class"),
    ):
        with raises(TypeError, words):
            ow.GradualMagnitude(HALF, **{part: value})


@pytest.mark.parametrize(
    ("counts", "error", "words"),
    [
        (None, TypeError, "must return a dict of counts for weight, and returned a NoneType"),
        ([8], TypeError, "must return a dict of counts for weight, and returned a list"),
        ({"other": 8}, TypeError, "must return a dict of counts for weight, and returned other"),
        ({"weight": 0.5}, ValueError, "how many of the 16 weights of weight to keep, and returned 0.5; return a whole"),
        ({"weight": 17}, ValueError, "how many of the 16 weights of weight to keep, and returned 17; return a whole"),
    ],
)
def test_an_allocation_that_does_not_count(counts, error, words):
    allocation = type("Mine", (ow.Allocation,), {"__call__": lambda *_: counts})()
    model = nn.Linear(4, 4)
    before = Everything(model)
    with raises(error, words):
        ow.sparsify(model, ow.GradualMagnitude(HALF, allocation=allocation))
    before.assert_unchanged()


@pytest.mark.parametrize("batches", [torch.ones(1, 4), [torch.ones(1, 4)]])
def test_a_calibration_is_a_function(batches):
    with raises(TypeError, "calibrate must be a function that runs batches through its model, got a "):
        ow.sparsify(nn.Linear(4, 4), ow.Wanda(HALF), calibrate=batches)
