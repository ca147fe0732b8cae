"""The small Transformer with seeds: parts of results/large/PLAN.md, which says why.

Gale, Elsen & Hooker 2019, arXiv 1902.09574, sections 4 and 6. Every function returns runs by key: experiment,
technique, setting and seed, with which the plan's rows begin.
"""

from collections.abc import Iterable
from dataclasses import replace
from itertools import product

from openwork.core.schedules import AveragedCubic, Cubic
from openwork.core.technique import Technique
from openwork.study.experiments.large_resnet50 import Runs
from openwork.study.experiments.transformer import SMALL_PAIRS, SMALL_STEPS, SPARSITIES, small_task
from openwork.study.runs.origin import LotteryTicket, Origin, Scratch
from openwork.study.runs.run import Run
from openwork.techniques.l0 import L0
from openwork.techniques.magnitude import GradualMagnitude
from openwork.techniques.random import RandomPruning
from openwork.techniques.variational_dropout import VariationalDropout

BOTH, SMOOTHED, NONE = "dropout and label smoothing", "label smoothing", "none"
SEEDS, NEW_SEEDS = (0, 1, 2), (1, 2)
"""Seed 0 of dense, magnitude and random pruning is in the rows of results/translation."""
KL_WEIGHTS = (0.03, 0.1, 0.2, 0.5, 1.0, 3.0)
"""The first one was added to the plan after rows of the others, which leave too few weights for levels up to 70 %."""
L0_WEIGHTS = (1.4, 2.0, 4.0, 8.0, 20.0)
PRESETS = {"without dropout": SMOOTHED, "without regularisation": NONE}
PRESET_LEVELS = (0.5, 0.9, 0.98)
MASK_LEVELS, MASKS, REPLICAS = (0.9, 0.8, 0.5), 3, 3
MASK_STEPS = 5_000


def told(name: str) -> Runs:
    """Dense, or magnitude or random pruning at the paper's seven levels; seeds 1 and 2.

    Args:
        name: "dense", "magnitude" or "random".
    """
    levels = (0.0,) if name == "dense" else SPARSITIES
    return {
        ("Transformer", name, f"{level:g}", seed): Run(small_task(BOTH), _pruning(name, level), SMALL_STEPS, seed=seed)
        for level, seed in product(levels, NEW_SEEDS)
    }


def learned(name: str, weight: float) -> Runs:
    """Variational dropout or L0 with one coefficient, three seeds.

    Args:
        name: "variational dropout" or "L0".
        weight: The factor of 1/N.
    """
    ramp = AveragedCubic(weight / SMALL_PAIRS, end=6_000)
    technique = VariationalDropout(ramp) if name == "variational dropout" else L0(ramp)
    return {
        ("Transformer", name, f"{weight:g}", seed): Run(small_task(SMOOTHED), technique, SMALL_STEPS, seed=seed)
        for seed in SEEDS
    }


def regularised(preset: str) -> Runs:
    """Dense and magnitude pruning at three levels, three seeds.

    Args:
        preset: A key of `PRESETS`.
    """
    task = small_task(PRESETS[preset])
    return {
        (f"Transformer, {preset}", name, f"{level:g}", seed): Run(task, _pruning(name, level), SMALL_STEPS, seed=seed)
        for (name, level), seed in product((("dense", 0.0), *(("magnitude", s) for s in PRESET_LEVELS)), SEEDS)
    }


def mask(level: float, number: int) -> Run:
    """The magnitude pruning whose zeros the others keep, in half of the steps.

    Args:
        level: The sparsity of every layer.
        number: Of the mask; its seed.
    """
    return Run(small_task(BOTH), _pruning("magnitude", level, MASK_STEPS), MASK_STEPS, seed=number)


def masks(level: float, number: int, replicas: Iterable[int]) -> Runs:
    """A mask, and the replicas of each kind of network that keeps its zeros.

    With twice the steps (scratch-b) the rate is the same function of the step, as in the paper.

    Args:
        level: Of `MASK_LEVELS`.
        number: Of the mask.
        replicas: Their numbers; the seed is 100 * (1 + number) + replica.
    """
    run, task, name = mask(level, number), small_task(BOTH), "Transformer, masks"
    kinds: dict[str, tuple[Origin, int]] = {
        "lottery ticket": (LotteryTicket(run), 1),
        "scratch-e": (Scratch(run), 1),
        "scratch-e, augmented": (Scratch(run, augmented=True), 1),
        "scratch-b": (Scratch(run), 2),
    }
    found: Runs = {(name, "magnitude", f"{level:g}", number): run}
    for kind, (origin, budget) in kinds.items():
        own = replace(task, warmup=task.warmup / budget)
        for seed in (100 * (1 + number) + replica for replica in replicas):
            kept = replace(run, task=own, technique=None, origin=origin, steps=budget * MASK_STEPS, seed=seed)
            found[name, kind, f"{level:g}", seed] = kept
    return found


def _pruning(name: str, level: float, steps: int = SMALL_STEPS) -> Technique | None:
    """From a fifth to four fifths of the steps, as in `small`."""
    if name == "dense":
        return None
    schedule = Cubic(level, begin=steps // 5, end=steps * 4 // 5, every=steps // 100)
    return RandomPruning(schedule) if name == "random" else GradualMagnitude(schedule, hidden="trained")
