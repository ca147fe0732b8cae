"""The tournament on CIFAR-10: techniques that make a ResNet-20 sparse while it trains, at four levels of sparsity.

``results/cifar10-tournament/PLAN.md`` says what it is to decide. Each technique has eight tuning runs, judged on 5,000
held-out training images. Those whose sparsity follows from a coefficient have four pilot runs before, of which only the
sparsities are looked at: they say where the coefficients of the tuning runs must lie.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from openwork.core.masks.allocations import ERK, Allocation, GlobalRanking, Uniform
from openwork.core.schedules import Linear, OneShot, Phases
from openwork.core.selection import excluding
from openwork.core.technique import Technique
from openwork.study.data.cifar10 import only_jpeg
from openwork.study.experiments.contest import (
    Contest,
    Entrant,
    Option,
    no_technique,
    pruning,
    ramp,
    updates,
)
from openwork.study.runs.origin import Rewound
from openwork.study.runs.run import Run
from openwork.study.tasks.cifar10 import Cifar10SmallResNet
from openwork.study.tasks.classification import ImageClassification
from openwork.techniques.acdc import ACDC
from openwork.techniques.grasp import GraSP
from openwork.techniques.l0 import L0
from openwork.techniques.magnitude import GradualMagnitude
from openwork.techniques.movement import Movement
from openwork.techniques.random import RandomPruning
from openwork.techniques.rigl import RigL
from openwork.techniques.set import SET
from openwork.techniques.snip import SNIP
from openwork.techniques.str import STR
from openwork.techniques.synflow import SynFlow
from openwork.techniques.top_kast import TopKAST
from openwork.techniques.variational_dropout import VariationalDropout

LEVELS = (0.8, 0.9, 0.95, 0.98)
ANCHORS = (0.9, 0.98)
"""Where techniques that are told their sparsity are tuned: each for itself and for the level before it."""
IMAGES, HELD_OUT = 50_000, 5_000  # of training
EPOCHS, STEPS_OF_AN_EPOCH = 8, 195
SEEDS = (0, 1, 2, 3, 4)
CHOSEN = Path("results/cifar10-tournament/study/chosen.csv")
"""In the repository."""

TICKET = "lottery ticket, rewound"
RATES = (3e-3, 1e-2)
FOUR_RATES = (2e-3, *RATES, 2e-2)  # for techniques without settings
MIDDLE = (5e-3,)  # for techniques whose eight settings are eight coefficients
INTERVALS = ((0.0, 0.5), (0.25, 0.75))  # of pruning, in fractions of the steps
PILOTS: dict[str, Option] = {
    "variational dropout": (0.1, 1.0, 10.0, 100.0),
    "L0": (1.0, 10.0, 100.0, 1000.0),
    "STR": (0.003, 0.01, 0.03, 0.1),
}
"""What is tried first: factors of 1 / images, and t / (1 - t) of STR's first threshold t."""
AIMS = (0.81, 0.85, 0.905, 0.93, 0.953, 0.968, 0.981, 0.987)
"""The sparsities that the eight coefficients are to give: two for each level, a little above it and further on."""


@dataclass(frozen=True)
class Cifar10Contest(Contest):
    """The contest, in which a lottery ticket has the mask of a run of its own and goes on after its first steps."""

    def run(self, name: str, setting: int, level: float, seed: int, task: ImageClassification) -> Run:
        """The run of a setting; a ticket's is a pruned run, trained once more from one of its first steps on."""
        run = replace(super().run(name, setting, level, seed, task), select=excluding("stem.weight"))
        if name != TICKET:
            return run
        (fraction,) = self.entrants[name].settings[setting][1]
        step = max(round(fraction * self.steps), 1)
        rest = run.task.rest(step / self.steps)
        return replace(run, task=rest, technique=None, steps=self.steps - step, origin=Rewound(run, step))


def contest(epochs: int = EPOCHS, factors: Mapping[str, Option] = PILOTS) -> Cifar10Contest:
    """All that the tournament is made of.

    Args:
        epochs: How long each network trains.
        factors: Of techniques whose sparsity follows from a coefficient, those that are tried.
    """
    steps = epochs * STEPS_OF_AN_EPOCH
    task = Cifar10SmallResNet(jpeg=only_jpeg())
    return Cifar10Contest(task, HELD_OUT, IMAGES, steps, steps // 2, LEVELS, ANCHORS, SEEDS, entrants(steps, factors))


def entrants(steps: int, factors: Mapping[str, Option] = PILOTS) -> dict[str, Entrant]:
    """The techniques by name, in trainings of so many steps; the plan says why the settings are these."""
    every = max(steps // 60, 1)

    def magnitude(allocation: Allocation) -> Entrant:
        return Entrant(
            lambda option, level, _: GradualMagnitude(pruning(level, option, steps, every), allocation=allocation),
            INTERVALS,
            RATES,
        )

    def exchanging(technique: type[RigL | SET], allocation: Allocation) -> Entrant:
        return Entrant(
            lambda option, level, _: technique(updates(level, max(option[0] * steps, 1), steps), allocation=allocation),
            ((0.01,), (0.04,)),
            RATES,
        )

    def learned(technique: Callable[[float, int], Technique], name: str) -> Entrant:
        options = tuple((factor,) for factor in factors[name])
        return Entrant(lambda option, _, images: technique(option[0], images), options, MIDDLE, told=False)

    def penalty(factor: float, images: int) -> Linear:
        return ramp((factor, 0.5), images, steps)

    return {
        "dense": Entrant(no_technique, ((),), tuple(1.5e-3 * 2 ** (k / 2) for k in range(8)), told=False),
        "magnitude, uniform": magnitude(Uniform()),
        "magnitude, global ranking": magnitude(GlobalRanking()),
        # Its masks are those of "magnitude, global ranking": in one piece of the plan they are trained once.
        TICKET: Entrant(
            lambda _, level, __: GradualMagnitude(
                pruning(level, INTERVALS[1], steps, every), allocation=GlobalRanking()
            ),
            ((0.02,), (0.1,)),
            RATES,
        ),
        "random": Entrant(
            lambda option, level, _: RandomPruning(pruning(level, option, steps, every)), INTERVALS, RATES
        ),
        "random at the start, Erdős–Rényi": Entrant(
            lambda _, level, __: RandomPruning(OneShot(level), allocation=ERK()), ((),), FOUR_RATES
        ),
        "RigL, uniform": exchanging(RigL, Uniform()),
        "RigL, Erdős–Rényi": exchanging(RigL, ERK()),
        "SET": exchanging(SET, ERK()),
        "SNIP": Entrant(lambda option, level, _: SNIP(OneShot(level, at=int(option[0]))), ((1,), (20,)), RATES),
        "GraSP": Entrant(
            lambda option, level, _: GraSP(OneShot(level), temperature=option[0]), ((1.0,), (200.0,)), RATES
        ),
        "SynFlow": Entrant(lambda _, level, __: SynFlow(OneShot(level)), ((),), FOUR_RATES),
        "AC/DC": Entrant(lambda option, level, _: ACDC(_phases(level, option[0], steps)), ((0.05,), (0.1,)), RATES),
        "movement": Entrant(
            lambda option, level, _: Movement(pruning(level, option, steps - steps // 2, max(every // 4, 1))),
            INTERVALS,
            (1e-3, 3e-3),
            start=True,
        ),
        "Top-KAST": Entrant(
            lambda option, level, _: TopKAST(
                sparsity=level,
                backward_sparsity=max(1 - option[0] * (1 - level), 0.0),
                allocation=ERK(),
                every=max(steps // 100, 1),
                stop=steps * 3 // 4,
            ),
            ((2.0,), (5.0,)),
            RATES,
        ),
        "variational dropout": learned(lambda f, images: VariationalDropout(penalty(f, images)), "variational dropout"),
        "L0": learned(lambda f, images: L0(penalty(f, images)), "L0"),
        "STR": learned(lambda odds, _: STR(math.log(odds)), "STR"),
    }


def pilots(epochs: int = EPOCHS) -> dict[tuple[str, float, int], Run]:
    """The pilot runs by (technique, factor, seed), which is the tuning runs' next one."""
    found = contest(epochs)
    seed = found.tuning_seed + 1
    return {
        (name, factor, seed): found.run(name, setting, 0.0, seed, found.tuning)
        for name, factors in PILOTS.items()
        for setting, factor in enumerate(factors)
    }


def aimed(sparsities: Mapping[float, float], aims: Option = AIMS) -> Option:
    """The factors that are expected to give these sparsities, by what the factors of the pilots gave.

    Between two pilots the logarithm of the factor follows that of the weights that are left on a straight line. Beyond
    them each further aim is three times as far.

    Args:
        sparsities: Of the pilots, by factor; one that gave no more than a smaller one is left out.
        aims: The sparsities wanted, in rising order.
    """
    factors: list[float] = []
    given: list[float] = []
    for factor, sparsity in sorted(sparsities.items()):
        if not given or _orders(sparsity) > given[-1]:
            factors.append(factor)
            given.append(_orders(sparsity))
    wanted = [_orders(aim) for aim in aims]
    below, above = sum(each < given[0] for each in wanted), sum(each > given[-1] for each in wanted)
    inside = np.interp(wanted[below : len(aims) - above], given, np.log10(factors))
    return (
        *(factors[0] / 3**place for place in range(below, 0, -1)),
        *(float(f"{10**exponent:.3g}") for exponent in inside),
        *(factors[-1] * 3**place for place in range(1, above + 1)),
    )


def _orders(sparsity: float) -> float:
    """By how many powers of ten fewer weights are left."""
    return -math.log10(max(1 - sparsity, 1e-4))


def _phases(level: float, length: float, steps: int) -> Phases:
    """Sparse and dense phases of one length from a tenth of the steps on, the last sparse one from 80 %."""
    phase = max(round(length * steps), 1)
    return Phases(level, begin=steps // 10, end=steps * 8 // 10, sparse=phase, dense=phase)


def tuning() -> list[Run]:
    """All tuning runs, with the factors of the pilots."""
    return list(contest().trials().values())
