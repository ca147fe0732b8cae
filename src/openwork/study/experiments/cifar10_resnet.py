"""ResNet-50 on CIFAR-10: the paper's comparison of techniques on a network of its kind, in hours instead of months.

Gale, Elsen & Hooker 2019, arXiv 1902.09574, sections 4-5: magnitude and random pruning, variational dropout, L0, and
magnitude pruning with the first convolution dense, ``fc`` at 80 % and half as many steps more. Settings are the paper's
in fractions of the training; the coefficients of variational dropout and L0 are scaled to the shorter one.
"""

from dataclasses import replace

from openwork.core.allocations import PerLayer
from openwork.core.schedules import Constant, Cubic, Linear
from openwork.core.selection import excluding
from openwork.study.data.cifar10 import only_jpeg
from openwork.study.experiments.run import Run
from openwork.study.tasks.cifar10 import Cifar10ResNet
from openwork.techniques.l0 import L0
from openwork.techniques.magnitude import GradualMagnitude
from openwork.techniques.random import RandomPruning
from openwork.techniques.variational_dropout import VariationalDropout

IMAGES = 50_000
STEPS = 60 * (IMAGES // 256)
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98)
KL_WEIGHTS = (0.03, 0.1, 0.3, 1.0, 3.0)  # factors of 1/N
# The paper's 400 to 495, times 43 for the smaller sum of learning rates, times 50,000 / 1,281,167: 670 to 830.
L0_WEIGHTS = (500.0, 650.0, 750.0, 850.0, 1_000.0)
SEEDS = 3


def dense() -> list[Run]:
    """Without sparsity."""
    return _seeds([Run(_task(), None, STEPS)])


def magnitude() -> list[Run]:
    """Magnitude pruning, the same sparsity in every layer."""
    return _seeds([Run(_task(), GradualMagnitude(_pruning(s), hidden="trained"), STEPS) for s in SPARSITIES])


def extended() -> list[Run]:
    """Magnitude pruning with the first convolution dense, ``fc`` at 80 %, and more steps at the middle rate."""
    task, steps = replace(_task(), milestones=(0.2, 1.1 / 1.5, 1.3 / 1.5)), STEPS * 3 // 2
    return _seeds(
        [
            Run(
                task,
                GradualMagnitude(
                    Cubic(s, begin=steps * 26 // 100, end=steps * 83 // 100, every=steps // 64),
                    allocation=PerLayer({"fc": 0.8}),
                    hidden="trained",
                ),
                steps,
                select=excluding("conv1.weight"),
            )
            for s in SPARSITIES
        ]
    )


def random_pruning() -> list[Run]:
    """Random pruning, the same sparsity in every layer."""
    return _seeds([Run(_task(), RandomPruning(_pruning(s)), STEPS) for s in SPARSITIES])


def variational_dropout() -> list[Run]:
    """Variational dropout with the paper's ramp, initial variance and threshold for ResNet-50."""
    task = replace(_task(), decay_random=True)
    ramps = [Linear(weight / IMAGES, begin=STEPS * 16 // 100, end=STEPS * 53 // 100) for weight in KL_WEIGHTS]
    return _seeds([Run(task, VariationalDropout(ramp, threshold=0.5, log_sigma2=-15.0), STEPS) for ramp in ramps])


def l0() -> list[Run]:
    """L0 with an initial dropout rate of 10 %, and its own form of weight decay."""
    ramps = [Constant(weight / IMAGES) for weight in L0_WEIGHTS]
    return _seeds([Run(_task(), L0(ramp, weight_decay=5e-4), STEPS) for ramp in ramps])


def comparison() -> list[Run]:
    """All of them: 78 runs."""
    return [*dense(), *magnitude(), *extended(), *random_pruning(), *variational_dropout(), *l0()]


def _task() -> Cifar10ResNet:
    return Cifar10ResNet(jpeg=only_jpeg())


def _pruning(sparsity: float) -> Cubic:
    """From step 40,000 to 100,000 of 128,000, each 2,000."""
    return Cubic(sparsity, begin=STEPS * 40 // 128, end=STEPS * 100 // 128, every=STEPS * 2 // 128)


def _seeds(runs: list[Run]) -> list[Run]:
    return [replace(run, seed=seed) for run in runs for seed in range(SEEDS)]
