"""Sparse Transformers on WMT14 English to German: the grids of Gale et al. 2019 (arXiv 1902.09574), and smaller runs.

The grids are those of the paper's appendix and published results: 500,000 steps of 64 rows of 256 tokens each. They
need the training data as text files or parquet under OPENWORK_DATA, or the hub (see docs/translation.md). `small` is
the same comparison on about 230,000 pairs.
"""

from dataclasses import replace
from itertools import product

from openwork.core.masks.allocations import PerLayer
from openwork.core.schedules import AveragedCubic, Cubic, Linear, Schedule
from openwork.core.selection import excluding
from openwork.core.technique import Technique
from openwork.study.experiments.scratch import lottery_tickets, scratch
from openwork.study.runs.run import Run
from openwork.study.tasks.wmt import TextTranslation
from openwork.techniques.l0 import L0
from openwork.techniques.magnitude import GradualMagnitude
from openwork.techniques.random import RandomPruning
from openwork.techniques.variational_dropout import VariationalDropout

STEPS = 500_000
PAIRS = 4_500_000  # the N of the paper's coefficients
SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
THRESHOLDS = tuple(index / 2 for index in range(11))
"""Thresholds on log alpha, at all of which the paper evaluated each trained model of variational dropout."""
KL_WEIGHTS = (0.1, 0.4, 0.7, 1.0)
L0_WEIGHTS = (0.1, 0.4, 0.7, 1.0, 1.3, 1.6, 1.9, 2.5, 3.5, 10.0)
# What the appendix calls them, as (dropout everywhere but in the residual stream, there, label smoothing).
REGULARIZATION = {
    "none": (0.0, 0.0, 0.0),
    "label smoothing": (0.0, 0.0, 0.1),
    "dropout and label smoothing": (0.1, 0.1, 0.1),
    "more dropout": (0.1, 0.3, 0.1),
    "much more dropout": (0.1, 0.5, 0.1),
}
_SWEPT = ("none", "label smoothing", "dropout and label smoothing")
_GRID = range(0, STEPS, STEPS // 5)

WMT14 = TextTranslation(training=("wmt14/train",), vocabulary_size=33_288)
SMALL_DATA = (
    "tatoeba-en-de/train",
    "europarl-v7-20k/train",
    "wmt-opennmt-10k/train.tok",
    *(f"wmt-newstest/newstest{year}" for year in (2008, 2009, 2010, 2011, 2012, 2015, 2016, 2017, 2018)),
    *(f"wmt-newstest/newstest{year}-{way}" for year in (2019, 2020) for way in ("deen", "ende")),
)
SMALL_PAIRS, SMALL_STEPS = 230_000, 10_000
SMALL = TextTranslation(training=SMALL_DATA, vocabulary_size=16_000)


def regularized(task: TextTranslation, preset: str) -> TextTranslation:
    """The task with a regularisation of the appendix.

    Args:
        task: The task.
        preset: A key of `REGULARIZATION`.
    """
    dropout, residual, smoothing = REGULARIZATION[preset]
    return replace(
        task,
        attention_dropout=dropout,
        hidden_dropout=dropout,
        residual_dropout=residual,
        label_smoothing=smoothing,
    )


def dense() -> list[Run]:
    """The baseline, five seeds."""
    return [Run(WMT14, None, STEPS, seed=seed) for seed in range(5)]


def released() -> Run:
    """The model of the paper's published checkpoints, for ``--task`` of `openwork translate` and `eval`."""
    return dense()[0]


def magnitude() -> list[Run]:
    """504 runs: seven sparsities, twelve intervals, two frequencies, three regularisations."""
    schedules = [s for sparsity in SPARSITIES for s in _pruning(sparsity, first_end=300_000)]
    return _swept([GradualMagnitude(schedule, hidden="trained") for schedule in schedules])


def random_pruning() -> list[Run]:
    """630 runs: as `magnitude`, and three more intervals, which end before 300,000 steps."""
    schedules = [s for sparsity in SPARSITIES for s in _pruning(sparsity, first_end=100_000)]
    return _swept([RandomPruning(schedule) for schedule in schedules])


def variational_dropout() -> list[Run]:
    """372 runs: four coefficients, 31 ramps, three regularisations; each is evaluated at all `THRESHOLDS`."""
    return _swept([VariationalDropout(s) for weight in KL_WEIGHTS for s in _ramps(weight / PAIRS)])


def l0() -> list[Run]:
    """930 runs: ten coefficients, 31 ramps, three regularisations."""
    return _swept([L0(s) for weight in L0_WEIGHTS for s in _ramps(weight / PAIRS)])


def scratch_and_lottery() -> list[Run]:
    """875 runs: five masks of the best magnitude pruning at each sparsity, each trained in five ways, five times.

    With twice the steps (scratch-b) the warm-up stays 8,000 steps long, and the rate the same function of the step.
    """
    settings = (
        (0.5, 100_000, 400_000, 10_000, "dropout and label smoothing"),
        (0.6, 100_000, 400_000, 1_000, "dropout and label smoothing"),
        (0.7, 100_000, 300_000, 1_000, "dropout and label smoothing"),
        (0.8, 200_000, 400_000, 10_000, "label smoothing"),
        (0.9, 0, 400_000, 10_000, "label smoothing"),
        (0.95, 100_000, 300_000, 1_000, "label smoothing"),
        (0.98, 0, 300_000, 1_000, "none"),
    )
    runs: list[Run] = []
    for (sparsity, begin, end, every, preset), seed in product(settings, range(5)):
        technique = GradualMagnitude(Cubic(sparsity, begin=begin, end=end, every=every), hidden="trained")
        task = regularized(WMT14, preset)
        masked = Run(task, technique, STEPS, seed=seed)
        longer = [run for augmented in (False, True) for run in scratch(masked, budget=2, augmented=augmented)]
        runs += lottery_tickets(masked) + scratch(masked) + scratch(masked, augmented=True)
        runs += [replace(run, task=replace(task, warmup=task.warmup / 2)) for run in longer]
    return runs


def dense_embedding() -> Run:
    """Magnitude pruning of all but the shared matrix, at 90 %."""
    return Run(WMT14, _pruned(0.9), STEPS, select=excluding("embedding.*", "softmax.*"), variant="dense embedding")


def other_embedding() -> Run:
    """Magnitude pruning to 90 %, of the shared matrix to 80 %."""
    technique = GradualMagnitude(_pruned(0.9).schedule, hidden="trained", allocation=PerLayer({"embedding": 0.8}))
    return Run(WMT14, technique, STEPS, variant="embedding at 80 %")


def split_heads() -> Run:
    """Magnitude pruning to 90 %, with separate query, key and value matrices for each head."""
    return Run(replace(WMT14, split_heads=True), _pruned(0.9), STEPS, variant="split heads")


def small() -> list[Run]:
    """36 runs on `SMALL_DATA`, tested on newstest2014: dense, and four techniques at seven points each.

    Half the width and four layers, so that 10,000 steps of 8,192 tokens, 22 epochs, take minutes on a GPU. Pruning
    reaches the paper's sparsities; the weights of variational dropout and L0 spread over a range instead. Both bring
    their noise and train without binary dropout, L0 also with it.
    """
    steps = SMALL_STEPS
    with_dropout, without = (small_task(preset) for preset in ("dropout and label smoothing", "label smoothing"))
    pruning = [Cubic(s, begin=2_000, end=8_000, every=100) for s in SPARSITIES]
    kl = [AveragedCubic(w / SMALL_PAIRS, end=6_000) for w in (0.01, 0.03, 0.1, 0.2, 0.5, 1.0, 3.0)]
    gates = [AveragedCubic(w / SMALL_PAIRS, end=6_000) for w in (0.4, 0.8, 1.4, 2.0, 4.0, 8.0, 20.0)]
    return [
        Run(with_dropout, None, steps),
        *(Run(with_dropout, GradualMagnitude(schedule, hidden="trained"), steps) for schedule in pruning),
        *(Run(with_dropout, RandomPruning(schedule), steps) for schedule in pruning),
        *(Run(without, VariationalDropout(ramp), steps) for ramp in kl),
        *(Run(without, L0(ramp), steps) for ramp in gates),
        *(Run(with_dropout, L0(ramp), steps, variant="dropout") for ramp in gates),
    ]


def small_task(preset: str) -> TextTranslation:
    """The task of `small`.

    Args:
        preset: A key of `REGULARIZATION`.
    """
    half = replace(SMALL, width=256, hidden=1024, heads=4, layers=4, rows=32, warmup=0.2)
    return regularized(replace(half, peak_learning_rate=2 * 256**-0.5 * 4_000**-0.5), preset)


def small_base() -> Run:
    """The dense base model on `SMALL_DATA`: 5,000 steps of 24,576 tokens, about 20 epochs."""
    task = regularized(replace(SMALL, rows=96, warmup=0.2), "more dropout")
    return Run(replace(task, peak_learning_rate=2 * 512**-0.5 * 4_000**-0.5), None, 5_000)


def _swept(techniques: list[Technique]) -> list[Run]:
    return [Run(regularized(WMT14, preset), t, STEPS) for preset, t in product(_SWEPT, techniques)]


def _pruning(sparsity: float, first_end: int) -> list[Cubic]:
    """Between multiples of 100,000 steps, every 1,000 or 10,000."""
    intervals = [(begin, end) for begin in _GRID for end in (*_GRID, STEPS) if begin < end and end >= first_end]
    return [Cubic(sparsity, begin=begin, end=end, every=every) for begin, end in intervals for every in (1_000, 10_000)]


def _ramps(coefficient: float) -> list[Schedule]:
    """The constant, which the original wrote as a ramp of one step, and both shapes between multiples of 100,000."""
    intervals = [(begin, end) for begin in _GRID for end in (*_GRID, STEPS) if begin < end]
    shaped = [shape(coefficient, begin=b, end=e) for shape in (Linear, AveragedCubic) for b, e in intervals]
    return [Linear(coefficient, end=1), *shaped]


def _pruned(sparsity: float) -> GradualMagnitude:
    """The README's example: from the start to step 400,000."""
    return GradualMagnitude(Cubic(sparsity, end=400_000, every=10_000), hidden="trained")
