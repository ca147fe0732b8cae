"""A tiny Transformer learns to translate number words, dense and sparse, in a minute or two on one core each."""

from openwork.core.schedules import Cubic, Linear
from openwork.study.runs.run import Run
from openwork.study.tasks.number_words import NumberWords
from openwork.techniques.l0 import L0
from openwork.techniques.magnitude import GradualMagnitude
from openwork.techniques.random import RandomPruning
from openwork.techniques.variational_dropout import VariationalDropout

TASK = NumberWords()
STEPS = 1_500
SENTENCES = 6_000


def dense() -> Run:
    """The model without sparsity."""
    return Run(TASK, None, STEPS)


def magnitude() -> Run:
    """Magnitude pruning to 80 %, the same in every matrix."""
    return Run(TASK, GradualMagnitude(_pruning()), STEPS)


def random_pruning() -> Run:
    """Random pruning to 80 %."""
    return Run(TASK, RandomPruning(_pruning()), STEPS)


def variational_dropout() -> Run:
    """Variational dropout; the KL term rises until two thirds of the steps are done."""
    return Run(TASK, VariationalDropout(Linear(0.1 / SENTENCES, begin=300, end=1_000)), STEPS)


def l0() -> Run:
    """L0; the penalty rises until two thirds of the steps are done."""
    return Run(TASK, L0(Linear(1.8 / SENTENCES, end=1_000), dropout=0.3), STEPS)


def runs() -> list[Run]:
    """All the runs above."""
    return [dense(), magnitude(), random_pruning(), variational_dropout(), l0()]


def _pruning() -> Cubic:
    return Cubic(0.8, begin=300, end=1_000, every=50)
