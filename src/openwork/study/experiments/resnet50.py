"""ResNet-50 on ImageNet: the grids of Gale, Elsen & Hooker 2019 (arXiv 1902.09574, appendix) and their best models.

All runs have the paper's recipe: 128,000 steps of 1,024 images. ``task.source=...`` names the images; ``seed=1`` and
so on give the other seeds.
"""

from dataclasses import replace
from itertools import product

from openwork.core.masks.allocations import PerLayer
from openwork.core.schedules import Constant, Cubic, Linear
from openwork.core.selection import excluding
from openwork.core.technique import Technique
from openwork.study.data.imagenet import IMAGES
from openwork.study.experiments.scratch import SCHEMES, lottery_tickets, scheme, scratch
from openwork.study.runs.origin import Scratch
from openwork.study.runs.run import Run
from openwork.study.tasks.imagenet import BATCH, EPOCHS, STEPS, ImageNetResNet
from openwork.techniques.l0 import L0
from openwork.techniques.magnitude import GradualMagnitude
from openwork.techniques.random import RandomPruning
from openwork.techniques.variational_dropout import VariationalDropout

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
FREQUENCIES = (2_000, 4_000, 8_000)
SMOOTHINGS = (0.0, 0.1)
KL_WEIGHTS = (0.0, 0.01, 0.03, 0.05, 0.1, 0.3, 0.5, 1.0, 10.0, 100.0)  # factors of 1/N
# Factors of 1/N by the initial dropout rate: 20 or 21 values where everything happens.
L0_WEIGHTS = {
    0.01: range(4_200, 4_400, 10),
    0.05: range(890, 911),
    0.1: range(400, 500, 5),
    0.3: range(160, 180),
}
# The best magnitude pruning at each sparsity: (sparsity, begin, end, every, label smoothing).
_BEST = (
    (0.5, 40_000, 100_000, 2_000, 0.1),
    (0.7, 40_000, 100_000, 4_000, 0.1),
    (0.8, 40_000, 100_000, 2_000, 0.1),
    (0.9, 40_000, 76_000, 2_000, 0.1),
    (0.95, 40_000, 68_000, 2_000, 0.0),
    (0.98, 40_000, 100_000, 2_000, 0.1),
)
# Extended training: the third stretch of the learning rate is longer by half of all epochs, at four times the batch.
EXTENDED_STEPS = STEPS * 3 // 8
_MILESTONES = (30.0, 60.0 + 0.5 * EPOCHS, 80.0 + 0.5 * EPOCHS)


def dense() -> Run:
    """ResNet-50 without sparsity."""
    return _run(None, 0.1)


def released() -> Run:
    """The model of the paper's published checkpoints, for `openwork eval --task`, with their pooling and resizing."""
    return Run(ImageNetResNet(same_pool=True, filtered=False), None, STEPS)


def magnitude() -> list[Run]:
    """324 runs: 6 sparsities, 3 begins, 3 ends, 3 intervals, with and without label smoothing."""
    grid = product(SPARSITIES, (8_000, 20_000, 40_000), (68_000, 76_000, 100_000), FREQUENCIES, SMOOTHINGS)
    return [_magnitude(*point) for point in grid]


def random_pruning() -> list[Run]:
    """324 runs: as `magnitude`, but earlier."""
    grid = product(SPARSITIES, (0, 8_000, 20_000), (40_000, 68_000, 76_000), FREQUENCIES, SMOOTHINGS)
    return [_random(*point) for point in grid]


def variational_dropout() -> list[Run]:
    """180 runs: 10 factors of the KL, 3 begins and 3 ends of its ramp, with and without label smoothing."""
    grid = product(KL_WEIGHTS, (8_000, 20_000, 40_000), (68_000, 76_000, 100_000), SMOOTHINGS)
    return [_variational_dropout(*point) for point in grid]


def l0() -> list[Run]:
    """324 runs: 4 initial dropout rates, 20 or 21 factors each, with and without weight decay and label smoothing.

    The coefficient is constant: the published table has no ramp.
    """
    settings = ((dropout, weight) for dropout, weights in L0_WEIGHTS.items() for weight in weights)
    return [
        _run(L0(Constant(weight / IMAGES), dropout=dropout, weight_decay=decay), smoothing)
        for (dropout, weight), decay, smoothing in product(settings, (0.0, 1e-4), SMOOTHINGS)
    ]


def extended() -> list[Run]:
    """Magnitude pruning with the first convolution dense, ``fc`` at 80 %, and 1.5 times the training: 4 best runs.

    The sparsities are those of all other layers. The paper's code fixes batch and steps only through its checkpoints
    (48,000 steps), and where the rate falls is inferred.
    """
    settings = (
        (0.8, 12_500, 40_000, 2_000, 0.1),
        (0.91, 12_500, 36_000, 2_000, 0.1),
        (0.96, 7_500, 36_000, 1_000, 0.0),
        (0.98, 12_500, 36_000, 500, 0.0),
    )
    return [_extended(*setting) for setting in settings]


def published() -> list[Run]:
    """The 21 sparse models that the authors published: the best of each technique at each sparsity."""
    at_random = (
        (0.5, 20_000, 40_000, 4_000, 0.1),
        (0.7, 8_000, 40_000, 8_000, 0.1),
        (0.8, 0, 40_000, 8_000, 0.0),
        (0.9, 0, 40_000, 2_000, 0.0),
        (0.95, 0, 40_000, 2_000, 0.0),
        (0.98, 20_000, 40_000, 8_000, 0.0),
    )
    variational = (
        (0.01, 8_000, 68_000, 0.1),
        (0.05, 40_000, 68_000, 0.0),
        (0.1, 20_000, 68_000, 0.0),
        (0.5, 40_000, 100_000, 0.1),
        (1.0, 8_000, 76_000, 0.1),
    )
    return [
        *(_magnitude(*setting) for setting in _BEST),
        *extended(),
        *(_random(*setting) for setting in at_random),
        *(_variational_dropout(*setting) for setting in variational),
    ]


def scratch_and_lottery() -> list[Run]:
    """228 runs: three masks of magnitude pruning at each sparsity, each trained in five ways, three times.

    At 98 % the paper has three lottery tickets of one mask. With twice the steps (scratch-b) each stretch of the rate
    is twice as long, the best of the paper's ways; `other_schedules` has the others. Its mask at 95 % is not the best
    run's.
    """
    settings = (*_BEST[:4], (0.95, 20_000, 100_000, 4_000, 0.0))
    runs = lottery_tickets(_magnitude(*_BEST[-1]), 3)
    for setting, seed in product(settings, range(3)):
        masked = replace(_magnitude(*setting), seed=seed)
        runs += lottery_tickets(masked, 3)
        for budget, augmented in product((1, 2), (False, True)):
            runs += scratch(masked, 3, budget=budget, augmented=augmented)
    return runs


def other_schedules() -> list[Run]:
    """270 runs: scratch-b of `scratch_and_lottery` by the three schemes of the learning rate that the paper compares.

    Where the last one does not warm up, it falls at epochs 30, 60, 90 and so on; in the second the rate of epoch 80
    stays, and the third goes on at epochs 110, 140 and so on (inferred from "every 30 epochs").
    """
    runs: list[Run] = []
    for name in SCHEMES[1:]:
        warm_up, milestones = scheme(name, warm_up=5.0, milestones=(30.0, 60.0, 80.0), length=EPOCHS, every=30.0)
        for run in scratch_and_lottery():
            if isinstance(run.task, ImageNetResNet) and isinstance(run.origin, Scratch) and run.steps == 2 * STEPS:
                task = replace(run.task, epochs=2 * EPOCHS, warm_up=warm_up, milestones=milestones)
                runs.append(replace(run, task=task, variant=name))
    return runs


def sample() -> Run:
    """Eight steps of a ResNet-18 on 1,000 images in the folder ``imagenet-sample``, to see that everything works."""
    task = ImageNetResNet("imagenet-sample", "train", depth=18, size=64, batch_size=32, part_size=16)
    return Run(task, GradualMagnitude(Cubic(0.9, begin=1, end=6, every=1), hidden="trained"), steps=8)


def _run(technique: Technique | None, smoothing: float) -> Run:
    return Run(ImageNetResNet(label_smoothing=smoothing), technique, STEPS)


def _magnitude(sparsity: float, begin: int, end: int, every: int, smoothing: float) -> Run:
    return _run(GradualMagnitude(Cubic(sparsity, begin=begin, end=end, every=every), hidden="trained"), smoothing)


def _random(sparsity: float, begin: int, end: int, every: int, smoothing: float) -> Run:
    return _run(RandomPruning(Cubic(sparsity, begin=begin, end=end, every=every)), smoothing)


def _variational_dropout(weight: float, begin: int, end: int, smoothing: float) -> Run:
    ramp = Linear(weight / IMAGES, begin=begin, end=end)
    task = ImageNetResNet(label_smoothing=smoothing, decay_random=True, part_size=32)
    return Run(task, VariationalDropout(ramp, threshold=0.5, log_sigma2=-15.0), STEPS)


def _extended(sparsity: float, begin: int, end: int, every: int, smoothing: float) -> Run:
    schedule = Cubic(sparsity, begin=begin, end=end, every=every)
    technique = GradualMagnitude(schedule, allocation=PerLayer({"fc": 0.8}), hidden="trained")
    task = ImageNetResNet(batch_size=4 * BATCH, epochs=1.5 * EPOCHS, milestones=_MILESTONES, label_smoothing=smoothing)
    return Run(task, technique, EXTENDED_STEPS, select=excluding("conv1.weight"), variant="extended")
