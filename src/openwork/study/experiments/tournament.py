"""The tournament: every technique on LeNet-300-100, equally tuned, at eight levels of sparsity and with twenty seeds.

``results/mnist/PLAN.md`` says what it is to decide. Each technique has 60 tuning runs, judged on 10,000 held-out
training images. The settings that they choose are in ``results/mnist/study/chosen.csv``; the final runs train on all
images and are judged on the test set.
"""

from pathlib import Path

from openwork.core.masks.allocations import ERK, Allocation, GlobalRanking, Uniform
from openwork.core.schedules import Constant, Linear, OneShot
from openwork.study.experiments.contest import (
    Contest,
    Entrant,
    choices,
    no_technique,
    pairs,
    pruning,
    ramp,
    updates,
)
from openwork.study.runs.run import Run
from openwork.study.tasks.lenet import MnistLeNet5Caffe, MnistLeNet300100
from openwork.techniques.dynamic_surgery import DynamicSurgery, Splicing
from openwork.techniques.group_l0 import GroupL0
from openwork.techniques.l0 import L0
from openwork.techniques.magnitude import GradualMagnitude
from openwork.techniques.movement import Movement
from openwork.techniques.prune_retrain import PruneRetrain
from openwork.techniques.random import RandomPruning
from openwork.techniques.rigl import RigL
from openwork.techniques.set import SET
from openwork.techniques.snip import SNIP
from openwork.techniques.soft_weight_sharing import SoftWeightSharing
from openwork.techniques.variational_dropout import VariationalDropout

LEVELS = (0.5, 0.75, 0.9, 0.95, 0.98, 0.985, 0.99, 0.995)
"""From each to the next about half of the weights go; 98.5 % is where SparseVD's table has its claim."""
ANCHORS = (0.75, 0.95, 0.985, 0.995)
"""Where techniques that are told their sparsity are tuned: each for itself and for the level before it."""
IMAGES = 60_000  # of training
LENET5_TECHNIQUES = ("dense", "magnitude, uniform", "magnitude, global ranking", "variational dropout", "L0")
LENET5_LEVELS = (0.9, 0.98, 0.99, 0.995)
STEPS, START = 12_000, 6_000  # of a network; of these, in the dense run that some techniques start from
SEEDS = tuple(range(20))
CHOSEN = Path("results/mnist/study/chosen.csv")
"""In the repository."""

RATES, RETRAINING_RATES = (1e-3, 2e-3, 4e-3), (1e-4, 3e-4, 1e-3)
INTERVALS = ((0.0, 0.25), (0.0, 0.5), (0.0, 0.75), (0.25, 0.5), (0.25, 0.75))  # of pruning, in fractions of the steps


def trials() -> dict[tuple[str, float, int], Run]:
    """The tuning runs by (technique, level, setting), 60 of each; the level is 0 where the technique is not told it."""
    return CONTEST.trials()


def finals(chosen: Path = CHOSEN) -> dict[tuple[str, float, int], Run]:
    """The final runs by (technique, level, seed), as `Contest.finals` has them."""
    return CONTEST.finals(chosen)


def finals_of_lenet5(chosen: Path = CHOSEN) -> dict[tuple[str, float, int], Run]:
    """A few of them on LeNet-5-Caffe, ten seeds each, with the settings that were chosen for LeNet-300-100."""
    return {
        (name, level, seed): CONTEST.run(name, setting, level, seed, MnistLeNet5Caffe())
        for name, level, setting in choices(chosen)
        if name in LENET5_TECHNIQUES and level in (0.0, *LENET5_LEVELS)
        for seed in SEEDS[:10]
    }


def tuning() -> list[Run]:
    """All tuning runs."""
    return list(trials().values())


def tournament() -> list[Run]:
    """All final runs, with the settings in `CHOSEN`, which lies in the repository: call it from there."""
    return list({run.id: run for run in finals().values()}.values())


def _magnitude(allocation: Allocation) -> Entrant:
    return Entrant(
        lambda option, level, _: GradualMagnitude(pruning(level, option, STEPS, 100), allocation=allocation),
        INTERVALS,
        RATES,
    )


ENTRANTS: dict[str, Entrant] = {
    "dense": Entrant(no_technique, ((),), rates=tuple(1e-3 * 2 ** (k / 10) for k in range(-20, 40)), told=False),
    "magnitude, uniform": _magnitude(Uniform()),
    "magnitude, global ranking": _magnitude(GlobalRanking()),
    "magnitude, Erdős–Rényi": _magnitude(ERK()),
    "random": Entrant(lambda option, level, _: RandomPruning(pruning(level, option, STEPS, 100)), INTERVALS, RATES),
    "RigL": Entrant(
        lambda option, level, _: RigL(updates(level, option[0], STEPS), fraction=option[1], allocation=ERK()),
        ((50, 0.3), (100, 0.3), (200, 0.3), (500, 0.3), (100, 0.5)),
        RATES,
    ),
    "SET": Entrant(
        lambda option, level, _: SET(updates(level, option[0], STEPS), fraction=option[1], allocation=ERK()),
        ((100, 0.3), (200, 0.3), (500, 0.3), (1000, 0.3), (500, 0.1)),
        RATES,
    ),
    "SNIP": Entrant(
        lambda option, level, _: SNIP(OneShot(level, at=int(option[0]))), ((1,), (5,), (20,), (100,), (500,)), RATES
    ),
    "movement": Entrant(
        lambda option, level, _: Movement(pruning(level, option, STEPS - START, 10)),
        INTERVALS,
        rates=RETRAINING_RATES,
        start=True,
    ),
    "Han 2015": Entrant(
        lambda option, _, __: PruneRetrain(Linear(option[0], end=(STEPS - START) * 3 // 4, every=int(option[1]))),
        pairs((0.6, 0.8, 1.0, 1.3, 1.7, 2.2, 2.8, 3.6, 5.5, 9.0), (225, 900)),
        rates=RETRAINING_RATES,
        told=False,
        start=True,
    ),
    "dynamic surgery": Entrant(
        lambda option, _, __: DynamicSurgery(Splicing(round(option[1] * (STEPS - START)), gamma=5e-3), rate=option[0]),
        pairs((-0.25, 0.25, 0.75, 1.25, 1.75, 2.5, 3.25, 4.0, 5.0, 6.5), (0.5, 0.75)),
        rates=RETRAINING_RATES,
        told=False,
        start=True,
    ),
    "variational dropout": Entrant(
        lambda option, _, images: VariationalDropout(ramp(option, images, STEPS)),
        pairs((0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0), (0.25, 0.75)),
        RATES,
        told=False,
    ),
    "L0": Entrant(
        lambda option, _, images: L0(ramp(option, images, STEPS)),
        pairs((0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 100.0), (0.25, 0.75)),
        RATES,
        told=False,
    ),
    "group L0": Entrant(
        lambda option, _, images: GroupL0(ramp(option, images, STEPS), weight_decay=5e-4 / images),
        pairs((0.03, 0.1, 0.3, 0.7, 1.5, 3.0, 6.0, 12.0, 25.0, 50.0), (0.25, 0.75)),
        RATES,
        told=False,
    ),
    "soft weight sharing": Entrant(
        lambda option, _, images: SoftWeightSharing(Constant(option[0] / images), zero_proportion=option[1]),
        pairs((0.001, 0.003, 0.006, 0.01, 0.02, 0.04, 0.1, 0.2, 0.4, 1.0), (0.99, 0.999)),
        rates=(2.5e-4, 5e-4, 1e-3),
        told=False,
        start=True,
    ),
}
"""The techniques by name. `PLAN.md` says why the settings are these."""
CONTEST = Contest(MnistLeNet300100(), 10_000, IMAGES, STEPS, START, LEVELS, ANCHORS, SEEDS, ENTRANTS)
