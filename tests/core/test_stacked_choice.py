"""Choosing the masks of many members at once gives what each member's own choice gives, or leaves it to that."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

import openwork as ow
from openwork.core.masks import stacked_choice
from openwork.core.masks.mechanism import Masking
from openwork.core.masks.threshold import drop_ties, keep_largest
from openwork.core.seeding import seeded_generator
from openwork.kernels.select_rows import select_rows
from tests.core.test_stacked_masks import BATCHED, different, label
from tests.helpers import raises
from tests.members import Member, Together, equal, random_steps

pytestmark = pytest.mark.filterwarnings("ignore:.* keeps no weight")

RAMP = ow.Cubic(0.8, begin=2, end=12, every=2)
INF = math.inf


@pytest.mark.parametrize("values", [2, 5, 100])
def test_ties_of_rows_are_drawn_as_those_of_one(values):
    scores = torch.randint(values, (20, 101), generator=torch.Generator().manual_seed(values)).float()
    scores[3], scores[4], scores[5, :60], scores[6, ::2] = 1, -INF, -INF, -0.0
    keep = [0, 101, 1, 40, 40, 40, *range(14, 98, 6)]
    selected = select_rows(scores, torch.tensor(keep))
    kept, ties, _ = selected.numbers.tolist()
    surplus = {row: n - k for row, (n, k) in enumerate(zip(kept, keep, strict=True)) if n > k}
    drop_ties(selected, scores, surplus, ties, lambda row: seeded_generator(row, 7, "w/ties"))
    for row, (score, k) in enumerate(zip(scores, keep, strict=True)):
        assert torch.equal(selected.mask[row], keep_largest(score, k, seeded_generator(row, 7, "w/ties")))


@pytest.mark.parametrize("total", [0, 1, 50, 119, 120])
def test_a_ranking_of_many_is_the_ranking_of_each(total):
    generator = torch.Generator().manual_seed(0)
    scores = {"a": torch.randint(5, (6, 100), generator=generator).float(), "b": torch.rand(6, 20, generator=generator)}
    scores["b"][2], scores["a"][3, :90] = -INF, -INF
    sparsities = [1 - total / 120] * 6
    found = ow.GlobalRanking().of_many(scores, sparsities)
    for row in range(6):
        one = {name: score[row] for name, score in scores.items()}
        assert found[row] == ow.GlobalRanking()(one, sparsities[row], 0.9)


def trained(technique, *, many, members=3, steps=12, change=lambda together: None):
    techniques = technique if isinstance(technique, list) else [technique] * members
    together = Together([Member(each, i, attach=False) for i, each in enumerate(techniques)], many=many)
    change(together)
    return together.train(steps)


def compare(technique, **options):
    """Asserts that both ways give the same."""
    for one, other in zip(
        trained(technique, many=True, **options).members, trained(technique, many=False, **options).members, strict=True
    ):
        equal(one.state(), other.state())


@pytest.mark.parametrize("allocation", [ow.Uniform(), ow.GlobalRanking(), ow.ERK()])
@pytest.mark.parametrize("kind", [ow.GradualMagnitude, ow.SNIP])
def test_equal_scores_are_drawn_as_alone(kind, allocation, monkeypatch):
    def even(together):
        with torch.no_grad():
            for parameter in together.parameters.values():
                parameter[0] = 0.5
                parameter[1] = 0.0
                parameter[2] = parameter[2].sign() * 0.25

    technique = kind(replace(RAMP, begin=0, every=1), allocation=allocation)
    own = trained(technique, many=False, change=even, steps=3)
    monkeypatch.delattr(Masking, "update")
    for one, other in zip(trained(technique, many=True, change=even, steps=3).members, own.members, strict=True):
        equal(one.state(), other.state())


def test_members_that_do_not_lie_side_by_side_are_updated_together(monkeypatch):
    schedules = [replace(RAMP, every=2 + i % 2, final=0.5 + i / 20) for i in range(6)]
    for kind in (ow.RigL, ow.GradualMagnitude):
        techniques = [
            kind(ow.Constant(s.final, every=s.every, stop=12) if kind is ow.RigL else s, **hidden)
            for s in schedules
            for hidden in [{} if kind is ow.RigL else {"hidden": "trained"}]
        ]
        compare(techniques)
    monkeypatch.setattr(stacked_choice, "_AT_ONCE", 1600)  # two members of 762 weights
    compare([ow.SET(ow.Constant(0.8, every=2, stop=12))] * 5)
    monkeypatch.setattr(stacked_choice, "_AT_ONCE", 1)
    compare([ow.GradualMagnitude(RAMP)] * 3)


@dataclass(frozen=True)
class ReadsItsSchedule(ow.GradualMagnitude):
    def scores(self, view):
        return view.weight.abs() + self.schedule(view.step) * view.uniform()


@dataclass(frozen=True)
class Branches(ow.GradualMagnitude):
    """Looks at values on the host, which vmap cannot."""

    def scores(self, view):
        return view.weight.abs() if view.weight.sum() > 0 else -view.weight.abs()


@dataclass(frozen=True)
class Whole(ow.GradualMagnitude):
    """Whole numbers, with ties."""

    def scores(self, view):
        return (view.weight.abs() * 20).int()


@dataclass(frozen=True)
class Same(ow.GradualMagnitude):
    """The same scores for all members."""

    def scores(self, view):
        return torch.linspace(0, 1, view.weight.numel()).view(view.weight.shape)


@dataclass(frozen=True)
class Rows(ow.Evidence):
    """The largest gradient of each output, and one that is gone after the update."""

    def begin(self, weight):
        return {"largest": torch.zeros_like(weight[:, :1]), "whole": torch.zeros((), dtype=torch.int64)}

    def gradient(self, kept, weight, gradient):
        kept["largest"] = torch.maximum(kept["largest"], gradient.abs().amax(1, keepdim=True))  # a new tensor
        kept["whole"] += 1
        kept["last"] = gradient  # the host's own


@dataclass(frozen=True)
class ByRow(ow.GradualMagnitude):
    evidence: ClassVar[ow.Evidence] = Rows(gradients="at updates")

    def scores(self, view):
        return view.weight.abs() * view.evidence["largest"] + view.evidence["last"].abs() * view.evidence["whole"]


@dataclass(frozen=True)
class HostRows(Rows):
    def gradient(self, kept, weight, gradient):
        super().gradient(kept, weight, gradient)
        if float(gradient.sum()) > 0:  # which vmap cannot
            kept["largest"] = kept["largest"] * 2


@dataclass(frozen=True)
class HostByRow(ByRow):
    evidence: ClassVar[ow.Evidence] = HostRows(gradients="at updates")


OWN = [ReadsItsSchedule, Branches, Whole, Same, ByRow, HostByRow]


@pytest.mark.parametrize("kind", OWN)
def test_techniques_of_ones_own_are_followed_or_asked_one_by_one(kind, monkeypatch):
    techniques = [kind(replace(RAMP, final=0.5 + i / 10)) for i in range(3)]
    compare(techniques)
    if kind is not Branches:
        monkeypatch.delattr(Masking, "update")
        trained(techniques, many=True)


def test_a_technique_that_writes_to_its_view_is_refused():
    @dataclass(frozen=True)
    class Writes(ow.GradualMagnitude):
        def scores(self, view):
            return view.weight.abs_()

    with raises(RuntimeError, "Writes.scores changed view.weight of", "in place; work on a copy"):
        trained(Writes(RAMP), many=True)


@pytest.mark.parametrize("change", ["weight", "gradient"])
def test_evidence_that_writes_to_what_it_is_shown_is_refused(change):
    @dataclass(frozen=True)
    class Writing(ow.Evidence):
        def gradient(self, kept, weight, gradient):
            (weight if change == "weight" else gradient).mul_(2)
            kept["gradient"] = gradient.clone()

    @dataclass(frozen=True)
    class Writes(ow.GradualMagnitude):
        evidence: ClassVar[ow.Evidence] = Writing(gradients="at updates")

    with raises(RuntimeError, "Writing.gradient changed", "in place; work on a copy"):
        trained(Writes(RAMP), many=True)


def test_evidence_of_every_step_that_would_not_be_saved_is_refused():
    @dataclass(frozen=True)
    class Adding(ow.Evidence):
        def gradient(self, kept, weight, gradient):
            kept["sum"] = gradient + 1

    @dataclass(frozen=True)
    class Adds(ow.GradualMagnitude):
        evidence: ClassVar[ow.Evidence] = Adding(gradients="every step")

    with raises(ValueError, "Adding.gradient adds 'sum', which is no part of the state"):
        trained(Adds(RAMP), many=True)


def test_layers_that_become_empty_are_said():
    with pytest.warns(UserWarning, match="0.weight keeps no weight"):
        trained(ow.GradualMagnitude(ow.OneShot(0.99, at=1)), many=True, steps=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("technique", BATCHED, ids=label)
def test_weights_of_any_precision_are_chosen_alike(technique, dtype):
    techniques = [different(technique, i) for i in range(3)]
    many, each = (random_steps(techniques, many=many, dtype=dtype) for many in (True, False))
    for one, other in zip(many, each, strict=True):
        equal(one, other)
