"""ResNet-50 on CIFAR-10: the paper's comparison of techniques on a network of its kind, in hours instead of months.

Gale, Elsen & Hooker 2019, arXiv 1902.09574, sections 4-5: magnitude and random pruning, variational dropout, L0, and
magnitude pruning with the first convolution dense, ``fc`` at 80 % and half as many steps more. The intervals are among
the paper's, in fractions of the training; the coefficients of variational dropout and L0 are scaled to the shorter
training. ``epochs`` is the length of each run, 20 by default; another length makes a variant of each technique.
"""

from dataclasses import replace

from openwork.core.masks.allocations import PerLayer
from openwork.core.schedules import Constant, Cubic, Linear
from openwork.core.selection import excluding
from openwork.study.data.cifar10 import only_jpeg
from openwork.study.runs.run import Run
from openwork.study.tasks.cifar10_resnet import Cifar10ResNet
from openwork.techniques.l0 import L0
from openwork.techniques.magnitude import GradualMagnitude
from openwork.techniques.random import RandomPruning
from openwork.techniques.variational_dropout import VariationalDropout

IMAGES, EPOCHS, SEEDS = 50_000, 20, 3
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98)
# Factors of 1/N at 20 epochs. The penalties move weights by learning rate times coefficient in each step, so half the
# epochs need twice the factor. L0's come from the paper's 400 to 495 for this dropout rate, times 83 for the smaller
# sum of learning rates, times 50,000 / 1,281,167: 1,300 to 1,600.
KL_WEIGHTS = (0.003, 0.01, 0.05, 0.3, 2.0)
L0_WEIGHTS = (1_000.0, 1_300.0, 1_450.0, 1_550.0, 1_700.0)


def dense(epochs: int = EPOCHS) -> list[Run]:
    """The network without sparsity."""
    return _seeds([Run(_task(), None, _steps(epochs))])


def magnitude(epochs: int = EPOCHS) -> list[Run]:
    """Magnitude pruning, the same sparsity in every layer."""
    techniques = [GradualMagnitude(_pruning(sparsity, epochs), hidden="trained") for sparsity in SPARSITIES]
    return _seeds([Run(_task(), technique, _steps(epochs), variant=_length(epochs)) for technique in techniques])


def extended(epochs: int = EPOCHS) -> list[Run]:
    """Magnitude pruning with the first convolution dense, ``fc`` at 80 %, and half as many steps more."""
    layers, dense_first = PerLayer({"fc": 0.8}), excluding("conv1.weight")
    longer = 1.5 * epochs
    techniques = [GradualMagnitude(_pruning(s, longer), allocation=layers, hidden="trained") for s in SPARSITIES]
    variant = ", ".join(filter(None, ("extended", _length(epochs))))
    return _seeds([Run(_task(), t, _steps(longer), select=dense_first, variant=variant) for t in techniques])


def random_pruning(epochs: int = EPOCHS) -> list[Run]:
    """Random pruning, the same sparsity in every layer."""
    techniques = [RandomPruning(_pruning(sparsity, epochs)) for sparsity in SPARSITIES]
    return _seeds([Run(_task(), technique, _steps(epochs), variant=_length(epochs)) for technique in techniques])


def variational_dropout(epochs: int = EPOCHS) -> list[Run]:
    """Variational dropout with the paper's ramp, initial variance and threshold for ResNet-50."""
    task, steps = replace(_task(), decay_random=True), _steps(epochs)
    begin, end = steps * 20 // 128, steps * 68 // 128
    ramps = [Linear(weight * EPOCHS / epochs / IMAGES, begin=begin, end=end) for weight in KL_WEIGHTS]
    techniques = [VariationalDropout(ramp, threshold=0.5, log_sigma2=-15.0) for ramp in ramps]
    return _seeds([Run(task, technique, steps, variant=_length(epochs)) for technique in techniques])


def l0(epochs: int = EPOCHS) -> list[Run]:
    """L0 with an initial dropout rate of 10 % and the weight decay of L0."""
    coefficients = [Constant(weight * EPOCHS / epochs / IMAGES) for weight in L0_WEIGHTS]
    techniques = [L0(coefficient, weight_decay=_task().weight_decay) for coefficient in coefficients]
    return _seeds([Run(_task(), technique, _steps(epochs), variant=_length(epochs)) for technique in techniques])


def comparison(epochs: int = EPOCHS) -> list[Run]:
    """All the runs above: 78, ordered by seed."""
    functions = (dense, magnitude, extended, random_pruning, variational_dropout, l0)
    runs = [run for function in functions for run in function(epochs)]
    return sorted(runs, key=lambda run: run.seed)


def _task() -> Cifar10ResNet:
    return Cifar10ResNet(jpeg=only_jpeg())


def _steps(epochs: float) -> int:
    return int(epochs * (IMAGES // Cifar10ResNet.batch_size))


def _length(epochs: float) -> str:
    """The variant's name for another length of training, as one line for both would compare two budgets."""
    return "" if epochs == EPOCHS else f"{epochs:g} epochs"


def _pruning(sparsity: float, epochs: float) -> Cubic:
    """From step 20,000 to 76,000 of 128,000, each 2,000."""
    steps = _steps(epochs)
    return Cubic(sparsity, begin=steps * 20 // 128, end=steps * 76 // 128, every=max(steps * 2 // 128, 1))


def _seeds(runs: list[Run]) -> list[Run]:
    return [replace(run, seed=seed) for run in runs for seed in range(SEEDS)]
