"""Masks of stacked models are those of each model alone, whatever the technique."""

import copy
import itertools
import math
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.core.masks.mechanism import Masking
from openwork.core.stacked import stack, stacked
from tests.helpers import conv_net, image_batches, raises
from tests.members import Member, Together, equal
from tests.test_public_base_classes import Steady

pytestmark = pytest.mark.filterwarnings("ignore:.* keeps no weight", "ignore:.* stopped at .* of a schedule")

RAMP = ow.Cubic(0.8, begin=2, end=20, every=3)
CONSTANT = ow.Constant(0.8, every=3, stop=20)
BATCHED = [
    ow.GradualMagnitude(RAMP),
    ow.GradualMagnitude(RAMP, hidden="trained"),
    ow.GradualMagnitude(RAMP, hidden="lost", allocation=ow.GlobalRanking()),
    ow.GradualMagnitude(RAMP, allocation=ow.ERK(), hidden="trained"),
    ow.GradualMagnitude(RAMP, allocation=ow.PerLayer({"0": 0.5})),
    ow.GradualMagnitude(ow.Linear(0.05, end=20, every=3), criterion=ow.Threshold()),
    ow.RandomPruning(RAMP),
    ow.DynamicSurgery(ow.Splicing(22), rate=0.5),
    ow.RigL(CONSTANT),
    ow.RigL(CONSTANT, allocation=ow.ERK()),
    ow.SET(CONSTANT),
    ow.Movement(RAMP),
    ow.SNIP(RAMP),
    ow.SNIP(ow.OneShot(0.8, at=4), allocation=ow.Uniform()),
    Steady(RAMP),
]
TECHNIQUES = [
    *BATCHED,
    ow.PruneRetrain(ow.Linear(1.2, end=20, every=3)),  # vmap sums its standard deviation in another order
    ow.GradualMagnitude(RAMP, allocation=ow.LAMP(), pattern=ow.Block(1, 2), hidden="trained"),
    ow.RandomPruning(RAMP, pattern=ow.Block(1, 2)),
    ow.SET(CONSTANT, pattern=ow.Block(1, 2)),
    ow.GradualMagnitude(ow.Cubic(0.5, begin=2, end=20, every=3), pattern=ow.NM(2, 4)),
    ow.Wanda(ow.OneShot(0.8)),
]
STEPS, N = 24, 3  # of which two change their masks at the same steps, and the third at others


def label(technique):
    return f"{type(technique).__name__}-{technique.hidden}"


every_technique = pytest.mark.parametrize("technique", TECHNIQUES, ids=label)


def different(technique, member):
    """The technique with other numbers for each member."""
    schedule = technique.schedule
    if isinstance(schedule, ow.Splicing):
        return replace(technique, schedule=replace(schedule, gamma=1e-4 * 10**member), rate=0.3 + member / 10)
    if not isinstance(technique.pattern, ow.NM):
        schedule = replace(schedule, final=schedule.final * (1 + 0.05 * member))
    if not isinstance(schedule, ow.OneShot):
        schedule = replace(schedule, every=3 + member // 2)
    if hasattr(technique, "fraction"):
        technique = replace(technique, fraction=0.2 + 0.1 * member)
    return replace(technique, schedule=schedule)


def differing(technique, *, attach, keep_zeros=False):
    return [Member(different(technique, i), i, attach=attach, keep_zeros=keep_zeros) for i in range(N)]


@cache
def alone_of(technique, keep_zeros=False):
    """Members after their training alone: one training for all tests, which only read them."""
    return [member.train(STEPS) for member in differing(technique, attach=True, keep_zeros=keep_zeros)]


@every_technique
@pytest.mark.parametrize("keep_zeros", [False, True])
@pytest.mark.parametrize("many", [False, True])
def test_stacked_members_equal_those_trained_alone(technique, many, keep_zeros, monkeypatch):
    alone = alone_of(technique, keep_zeros)
    together = Together(differing(technique, attach=False, keep_zeros=keep_zeros), many=many)
    if many and technique in BATCHED:
        monkeypatch.delattr(Masking, "update")  # all updates are those of many members at once
    together.train(STEPS)
    for one, other in zip(together.members, alone, strict=True):
        equal(one.state(), other.state())
        assert one.sparsifier.sparsity() == other.sparsifier.sparsity() > 0.1
        equal(one.sparsifier.finalize().state_dict(), other.sparsifier.finalized_copy().state_dict())


@every_technique
@pytest.mark.parametrize("many", [False, True])
def test_a_member_goes_on_alone_from_its_state_and_as_it_is(technique, many):
    alone = alone_of(technique)
    together = Together(differing(technique, attach=False), many=many).train(13)
    for index, (member, whole) in enumerate(zip(together.members, alone, strict=True)):
        later = Member(member.sparsifier.technique, 9)
        later.model.load_state_dict(member.model.state_dict())
        later.sparsifier.load_state_dict(copy.deepcopy(member.sparsifier.state_dict()))
        later.optimizer.load_state_dict(together.optimizer_state(index))
        later.batches = itertools.islice(image_batches(index), 13, None)
        equal(later.train(STEPS - 13).state() | {"sparsifier": None}, whole.state() | {"sparsifier": None})
        member.optimizer.load_state_dict(together.optimizer_state(index))
        member.sparsifier.attach(member.optimizer)
        equal(member.train(STEPS - 13).state(), whole.state())


@every_technique
def test_states_that_were_loaded_are_stacked(technique):
    alone = alone_of(technique)
    begun = [member.train(10) for member in differing(technique, attach=True)]
    members = differing(technique, attach=False)
    for member, old in zip(members, begun, strict=True):
        member.model.load_state_dict(old.model.state_dict())
        member.sparsifier.load_state_dict(old.sparsifier.state_dict())
        member.batches = old.batches
    together = Together(members)
    for number, parameter in enumerate(together.parameters.values()):
        states = [old.optimizer.state_dict()["state"][number] for old in begun]
        together.optimizer.state[parameter] = {
            key: torch.stack([state[key] for state in states]) if value.dim() else value.clone()
            for key, value in states[0].items()
        }
    together.train(STEPS - 10)
    for one, other in zip(members, alone, strict=True):
        equal(one.state(), other.state())


def test_counts_are_those_of_each_member():
    together = Together(differing(BATCHED[0], attach=False)).train(STEPS)
    zeros, expected = together.masks.zeros(), together.masks.expected_nonzero()
    for index, member in enumerate(together.members):
        assert {name: int(count[index]) for name, count in zeros.items()} == member.sparsifier.mechanism.zeros()
        assert {name: float(count[index]) for name, count in expected.items()} == member.sparsifier.expected_nonzero()


@pytest.mark.parametrize("technique", [t for t in BATCHED if t.criterion == ow.Sparsity()], ids=label)
@pytest.mark.parametrize("many", [False, True])
def test_a_member_that_diverges_disturbs_no_other(technique, many):
    alone = alone_of(technique)
    together = Together(differing(technique, attach=False), many=many).train(1)
    with torch.no_grad():
        together.parameters["3.weight"][1, 2, 5] = math.nan  # and so the other weights after the next step
    together.train(STEPS - 1)
    for index in (0, 2):
        equal(together.members[index].state(), alone[index].state())
    found = [update for update in together.updates if update.diverged]
    if isinstance(technique, ow.RandomPruning | Steady):  # their scores are numbers whatever the weights are
        assert found == []
        return
    (update,) = found
    assert update.diverged.keys() == {1}
    assert "are NaN, so its mask cannot be computed; has training diverged?" in update.diverged[1]


def test_hidden_values_of_members_without_zeros_are_trained_until_they_have_some():
    def technique(begin):
        return ow.GradualMagnitude(ow.Linear(0.8, begin=begin, end=20, every=2), hidden="trained")

    begins = [2, 4, 10]  # at these steps masks are due that keep everything
    alone = [Member(technique(begin), i).train(STEPS) for i, begin in enumerate(begins)]
    together = Together([Member(technique(begin), i, attach=False) for i, begin in enumerate(begins)]).train(STEPS)
    for one, other in zip(together.members, alone, strict=True):
        equal(one.state(), other.state())
    assert [step for step, update in enumerate(together.updates, 1) if update.recapture] == [4]


@pytest.mark.parametrize("technique", [BATCHED[1], ow.RigL(CONSTANT), ow.Movement(RAMP)], ids=label)
@pytest.mark.parametrize("many", [False, True])
def test_a_weight_that_is_frozen_has_masks_and_no_gradient(technique, many):
    def frozen():
        model = conv_net()
        model[3].weight.requires_grad_(False)
        return model

    alone = [Member(technique, i, model=frozen).train(STEPS) for i in range(2)]
    together = Together([Member(technique, i, model=frozen, attach=False) for i in range(2)], many=many).train(STEPS)
    for one, other in zip(together.members, alone, strict=True):
        equal(one.state(), other.state())


def test_masks_say_which_optimizer_states_they_clear():
    lost, trained = (
        Together([Member(ow.GradualMagnitude(ow.OneShot(s, at=3), hidden=hidden), attach=False) for s in (0.0, 0.5)])
        for hidden in ("lost", "trained")
    )
    assert [list(update.changed) for update in lost.train(4).updates] == [[], [], [1], []]
    assert [list(update.changed) for update in trained.train(4).updates] == [[], [], [], []]


@dataclass(frozen=True)
class Fails(ow.GradualMagnitude):
    def scores(self, view):
        raise OSError("the disk is full")


@pytest.mark.parametrize("many", [False, True])
def test_other_exceptions_of_a_technique_are_raised(many):
    together = Together([Member(Fails(ow.OneShot(0.5, at=2)), attach=False) for _ in range(2)], many=many)
    with pytest.raises(OSError, match="the disk is full"):
        together.train(2)


def sparsifiers(*techniques, model=lambda: nn.Linear(4, 3)):
    return [ow.sparsify(model(), technique) for technique in techniques]


def parameters(found):
    return {"weight": stacked([sparsifier.model.weight for sparsifier in found])}


def test_what_cannot_be_stacked_is_refused_and_unchanged():
    magnitude, random = ow.GradualMagnitude(ow.OneShot(0.5)), ow.RandomPruning(ow.OneShot(0.5))
    found = sparsifiers(magnitude, random)
    masks = [sparsifier.mechanism.weights[0].mask for sparsifier in found]
    with raises(ValueError, "RandomPruning(", "member 1", "cannot be stacked with GradualMagnitude("):
        stack(found, parameters(found))
    assert all(mask._base is None for mask in masks)
    found = sparsifiers(magnitude, replace(magnitude, hidden="lost"))
    with raises(ValueError, "hidden='lost'", "cannot be stacked"):
        stack(found, parameters(found))
    found = sparsifiers(magnitude, magnitude)
    with raises(ValueError, "weight (member 0) cannot be stacked", "not row 0"):
        stack(found, {"weight": torch.zeros(2, 3, 4)})
    found = sparsifiers(magnitude, ow.VariationalDropout(ow.Constant(0.1)))
    with raises(ValueError, "Reparameterizing cannot be stacked with Masking"):
        stack(found, {})
    found = [*sparsifiers(magnitude), *sparsifiers(magnitude, model=lambda: nn.Linear(3, 4))]
    with raises(ValueError, "weight (member 1) cannot be stacked", "(4, 3)", "(3, 4)"):
        stack(found, {"weight": torch.zeros(2, 3, 4)})
