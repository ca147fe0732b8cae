"""The quickstart: four techniques, six operating points each, three seeds, on handwritten digits in a minute or two."""

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
STEPS = 800
IMAGES = 1_437
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
# The weight of a penalty decides the sparsity; these factors of 1/N were chosen to spread over its range.
KL_WEIGHTS = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0)
L0_WEIGHTS = (0.1, 0.2, 0.5, 1.0, 2.0, 3.0)
SEEDS = (0, 1, 2)


def techniques() -> list[Technique]:
    """The techniques at all their operating points."""
    pruning = [Cubic(sparsity, begin=80, end=480, every=20) for sparsity in SPARSITIES]
    return [
        *(GradualMagnitude(schedule) for schedule in pruning),
        *(RandomPruning(schedule) for schedule in pruning),
        *(VariationalDropout(Linear(weight / IMAGES, end=270)) for weight in KL_WEIGHTS),
        *(L0(Linear(weight / IMAGES, end=270), dropout=0.3) for weight in L0_WEIGHTS),
    ]


def runs() -> list[Run]:
    """Dense and sparse runs, 75 in all."""
    return [Run(TASK, technique, steps=STEPS, seed=seed) for technique in (None, *techniques()) for seed in SEEDS]


def variational_dropout() -> Run:
    """One of the runs, with 0.1 of the KL term: that of ``docs/pruning.png``."""
    return Run(TASK, VariationalDropout(Linear(0.1 / IMAGES, end=270)), steps=STEPS)
