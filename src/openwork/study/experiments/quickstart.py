"""The quickstart: four techniques, three operating points each, five seeds, on digits, in a minute or two."""

from openwork.core.schedules import Cubic, Linear
from openwork.core.technique import Technique
from openwork.study.runs.run import Run
from openwork.study.tasks.lenet import DigitsLeNet300100
from openwork.techniques.l0 import L0
from openwork.techniques.magnitude import GradualMagnitude
from openwork.techniques.random import RandomPruning
from openwork.techniques.variational_dropout import VariationalDropout

# log sigma^2 and log alpha have far to go in so few steps: a larger rate than Adam's usual 1e-3.
TASK = DigitsLeNet300100(peak_learning_rate=1e-2)
STEPS = 700
IMAGES = 1_437
# Digits are easy: up to 90 % no technique loses accuracy, and only from 95 % on do they differ.
SPARSITIES = (0.9, 0.95, 0.98)
# The weight of a penalty decides the sparsity; these factors of 1/N were chosen to spread over the same range. Each
# is less than ten times as dense as the next, so that every seed can be read at 98 %.
KL_WEIGHTS = (0.03, 0.2, 0.5)
L0_WEIGHTS = (0.5, 2.0, 5.0)
WARM_UP = 240  # steps until a penalty has its whole weight
SEEDS = (0, 1, 2, 3, 4)


def techniques() -> list[Technique]:
    """The techniques at all their operating points."""
    pruning = [Cubic(sparsity, begin=70, end=420, every=20) for sparsity in SPARSITIES]
    return [
        *(GradualMagnitude(schedule) for schedule in pruning),
        *(RandomPruning(schedule) for schedule in pruning),
        *(VariationalDropout(Linear(weight / IMAGES, end=WARM_UP)) for weight in KL_WEIGHTS),
        *(L0(Linear(weight / IMAGES, end=WARM_UP), dropout=0.3) for weight in L0_WEIGHTS),
    ]


def runs() -> list[Run]:
    """Dense and sparse runs, 65 in all."""
    return [Run(TASK, technique, steps=STEPS, seed=seed) for technique in (None, *techniques()) for seed in SEEDS]


def variational_dropout() -> Run:
    """A run like these with 0.1 of the KL term: that of ``docs/pruning.png``."""
    return Run(TASK, VariationalDropout(Linear(0.1 / IMAGES, end=WARM_UP)), steps=STEPS)
