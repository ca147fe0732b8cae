"""Masks of stacked models are those of each model alone, whatever the technique."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import openwork as ow
from openwork.core.stacked import stack, stacked
from tests.helpers import conv_net, image_batches
from tests.test_contract import forward

pytestmark = pytest.mark.filterwarnings("ignore:.* keeps no weight", "ignore:.* stopped at .* of a schedule")

RAMP = ow.Cubic(0.8, begin=2, end=20, every=3)
CONSTANT = ow.Constant(0.8, every=3, stop=20)
TECHNIQUES = [
    ow.GradualMagnitude(RAMP),
    ow.GradualMagnitude(RAMP, hidden="trained"),
    ow.GradualMagnitude(RAMP, hidden="lost", allocation=ow.GlobalRanking()),
    ow.GradualMagnitude(RAMP, allocation=ow.ERK(), hidden="trained"),
    ow.GradualMagnitude(RAMP, allocation=ow.PerLayer({"0": 0.5})),
    ow.GradualMagnitude(RAMP, allocation=ow.LAMP(), pattern=ow.Block(1, 2), hidden="trained"),
    ow.GradualMagnitude(ow.Linear(0.05, end=20, every=3), criterion=ow.Threshold()),
    ow.RandomPruning(RAMP),
    ow.RandomPruning(RAMP, pattern=ow.Block(1, 2)),
    ow.PruneRetrain(ow.Linear(1.2, end=20, every=3)),
    ow.DynamicSurgery(ow.Splicing(22), rate=0.5),
    ow.RigL(CONSTANT),
    ow.RigL(CONSTANT, allocation=ow.ERK()),
    ow.SET(CONSTANT),
    ow.SET(CONSTANT, pattern=ow.Block(1, 2)),
    ow.Movement(RAMP),
    ow.SNIP(RAMP),
    ow.SNIP(ow.OneShot(0.8, at=4), allocation=ow.Uniform()),
    ow.Wanda(ow.OneShot(0.8)),
]
every_technique = pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: f"{type(t).__name__}-{t.hidden}")
STEPS, N = 24, 4


class Member:
    """One model, its sparsifier and its optimizer, from a seed of its own."""

    def __init__(self, technique, seed, *, keep_zeros=False, attach=True):
        torch.manual_seed(seed)
        self.model = conv_net()
        if keep_zeros:
            with torch.no_grad():
                self.model[3].weight[seed::5] = 0
        calibrate = forward if technique.evidence.inputs else None
        self.sparsifier = ow.sparsify(self.model, technique, seed=seed, keep_zeros=keep_zeros, calibrate=calibrate)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        if attach:
            self.sparsifier.attach(self.optimizer)
        self.batches = image_batches(seed)

    def gradients(self):
        loss = F.cross_entropy(*(lambda x, y: (self.model(x), y))(*next(self.batches)))
        return torch.autograd.grad(loss, list(self.model.parameters()))

    def train(self, steps):
        for _ in range(steps):
            x, y = next(self.batches)
            F.cross_entropy(self.model(x), y).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return self


class Together:
    """Members that are trained as one."""

    def __init__(self, members):
        self.members = members
        named = [dict(member.model.named_parameters()) for member in members]
        self.parameters = {name: stacked([each[name] for each in named]) for name in named[0]}
        self.masks = stack([member.sparsifier for member in members], self.parameters)
        self.optimizer = torch.optim.Adam(list(self.parameters.values()), lr=0.01)
        self.step = members[0].sparsifier.steps
        self.diverged = {}

    def gradients(self):
        found = [member.gradients() for member in self.members]
        return {name: torch.stack(each) for name, each in zip(self.parameters, zip(*found, strict=True), strict=True)}

    def train(self, steps):
        for _ in range(steps):
            self.step += 1
            gradients = self.gradients()
            self.masks.take(self.step, gradients)
            self.masks.before_step(gradients)
            for name, parameter in self.parameters.items():
                parameter.grad = gradients[name]
            self.optimizer.step()
            self.masks.after_step()
            updated = self.masks.update(self.step)
            self.diverged |= updated.diverged
            for name, masks in self.masks.masks.items():
                for state in self.optimizer.state[self.parameters[name]].values():
                    if state.shape == masks.shape:
                        for member in updated.changed:
                            state[member].masked_fill_(masks[member] == 0, 0)
        for member in self.members:
            member.sparsifier.count_to(self.step)
        return self


def different(technique, member):
    """The technique with another schedule for each member, of which only the first keeps its steps."""
    schedule = technique.schedule
    if isinstance(schedule, ow.Splicing):
        return replace(technique, schedule=replace(schedule, gamma=1e-4 * 10**member), rate=0.3 + member / 10)
    schedule = replace(schedule, final=schedule.final * (1 + 0.05 * member))
    if isinstance(schedule, ow.Cubic | ow.Linear | ow.Constant):
        schedule = replace(schedule, every=3 + member // 2)
    if hasattr(technique, "fraction"):
        technique = replace(technique, fraction=0.2 + 0.1 * member)
    return replace(technique, schedule=schedule)


def equal(one, other):
    """Whether two states are the same, bit for bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            equal(one[key], other[key])
    else:
        assert one == other


def states(member):
    return {"model": member.model.state_dict(), "sparsifier": member.sparsifier.state_dict()}


@every_technique
@pytest.mark.parametrize("keep_zeros", [False, True])
def test_stacked_members_equal_those_trained_alone(technique, keep_zeros):
    techniques = [different(technique, member) for member in range(N)]
    alone = [Member(each, i, keep_zeros=keep_zeros).train(STEPS) for i, each in enumerate(techniques)]
    members = [Member(each, i, keep_zeros=keep_zeros, attach=False) for i, each in enumerate(techniques)]
    together = Together(members).train(STEPS)
    for one, other in zip(members, alone, strict=True):
        equal(states(one), states(other))
        assert one.sparsifier.sparsity() == other.sparsifier.sparsity() > 0.1
    zeros, expected = together.masks.zeros(), together.masks.expected_nonzero()
    for index, other in enumerate(alone):
        assert {name: int(count[index]) for name, count in zeros.items()} == other.sparsifier._mechanism.zeros()
        assert {name: float(count[index]) for name, count in expected.items()} == other.sparsifier.expected_nonzero()
