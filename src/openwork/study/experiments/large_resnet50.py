"""ResNet-50 on CIFAR-10 with seeds and held-out images: parts of results/large/PLAN.md, which says why.

Gale, Elsen & Hooker 2019, arXiv 1902.09574, sections 4 to 6 and appendix. Every function returns runs by key:
experiment, technique, setting and seed, with which the plan's rows begin.
"""

from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from typing import Any

from openwork.core.masks.allocations import PerLayer
from openwork.core.schedules import Constant, Cubic, Linear
from openwork.core.selection import excluding
from openwork.core.technique import Technique
from openwork.study.data.cifar10 import only_jpeg
from openwork.study.experiments.cifar10_resnet import EPOCHS, KL_WEIGHTS, SPARSITIES
from openwork.study.experiments.scratch import SCHEMES, scheme
from openwork.study.runs.origin import LotteryTicket, Origin, Scratch
from openwork.study.runs.run import Run
from openwork.study.tasks.cifar10_resnet import Cifar10ResNet
from openwork.study.tasks.imagenet import EPOCHS as WHOLE
from openwork.techniques.l0 import L0
from openwork.techniques.magnitude import GradualMagnitude
from openwork.techniques.random import RandomPruning
from openwork.techniques.variational_dropout import VariationalDropout

Runs = dict[tuple[str, str, str, int], Run]
"""By experiment, technique, setting and seed."""

IMAGES, HELD_OUT = 45_000, 5_000
SEEDS, PILOT = (0, 1, 2), 1_000
LAYOUT_LEVELS = (0.8, 0.95, 0.98)
"""Of the layouts, uniform and extended, at both lengths."""
LONG, LONGEST, SHORT = 30, 40, 8
"""Epochs of the runs that train longer, of those at 98 %, and of those that keep a mask's zeros."""
NARROW = 0.25
NARROW_SEEDS = (0, 1, 2, 3, 4)
BEYOND = {
    "variational dropout": tuple(product((-10.0, -15.0), (1.0, 5.0))),
    "magnitude": tuple(product(("uniform", "extended"), (76.0, 100.0))),
}
"""The pilots at 98 %: (initial log sigma^2, KL * N), and (layout, end of pruning in 128ths of the steps)."""
MASK_LEVELS, MASKS, REPLICAS = (0.95, 0.9, 0.8), 3, 3
BETWEEN = {1.0: (1_460.0, 1_475.0, 1_490.0, 1_505.0, 1_520.0, 1_535.0), 1_000.0: (1_600.0, 1_700.0, 1_800.0, 1_900.0)}
"""Factors of 1/N at which L0 goes from few zeros to nothing else, by the factor of the rate on gates."""
GATES = tuple(product((10.0, 100.0, 1_000.0), (1_500.0, 2_000.0, 3_000.0, 6_000.0)))
"""The pilots of L0: factors of the rate on gates and of 1/N. The coefficient is divided by the former, so that the
penalty moves gates as it does at the rate of the weights, and the loss by as much more."""


def compared(epochs: int, seeds: Iterable[int] = SEEDS) -> Runs:
    """Dense, magnitude, random pruning and variational dropout for 20 epochs; another length has no random pruning."""
    levels = SPARSITIES if epochs == EPOCHS else LAYOUT_LEVELS
    names = ("magnitude", "random") if epochs == EPOCHS else ("magnitude", "magnitude, extended")
    layouts = [(name, level) for name in names for level in levels]
    if epochs == EPOCHS:
        layouts += [("magnitude, extended", level) for level in LAYOUT_LEVELS]
    runs: Runs = {}
    for seed in seeds:
        own = {("dense", "0"): _run(None, epochs, seed)}
        own |= {(name, f"{level:g}"): _pruned(name, level, epochs, seed) for name, level in layouts}
        own |= {("variational dropout", f"{weight:g}"): _dropout(weight, epochs, seed) for weight in KL_WEIGHTS}
        runs |= {(f"ResNet-50, {epochs} epochs", *key, seed): run for key, run in own.items()}
    return runs


def narrow() -> Runs:
    """Dense, magnitude and random pruning of a network with a quarter of the channels, five seeds."""
    runs: Runs = {}
    for seed in NARROW_SEEDS:
        own = {("dense", "0"): _run(None, EPOCHS, seed, width=NARROW)}
        own |= {
            (name, f"{level:g}"): _pruned(name, level, EPOCHS, seed, width=NARROW)
            for name, level in product(("magnitude", "random"), SPARSITIES)
        }
        runs |= {(f"ResNet-50 x {NARROW:g}", *key, seed): run for key, run in own.items()}
    return runs


def pilots_beyond() -> Runs:
    """Four settings of variational dropout and of magnitude pruning at 98 %, judged on the held-out images."""
    return {
        (f"ResNet-50, {LONGEST} epochs, pilots", name, _text(setting), PILOT): _beyond(name, setting, PILOT, pilot=True)
        for name, settings in BEYOND.items()
        for setting in settings
    }


def beyond(chosen: Iterable[tuple[str, str]]) -> Runs:
    """The chosen settings at 98 %, three seeds.

    Args:
        chosen: (technique, setting) of `pilots_beyond`.
    """
    return {
        (f"ResNet-50, {LONGEST} epochs", name, text, seed): _beyond(name, _setting(BEYOND[name], text), seed)
        for name, text in chosen
        for seed in SEEDS
    }


def between(rate: float = 1.0) -> Runs:
    """L0 at the coefficients between the jump, three seeds.

    Args:
        rate: A key of `BETWEEN`.
    """
    return {
        ("ResNet-50, L0", "L0", _text((rate, weight)), seed): _l0((rate, weight), seed)
        for weight, seed in product(BETWEEN[rate], SEEDS)
    }


def pilots_of_gates() -> Runs:
    """L0 with 10, 100 and 1,000 times the rate on gates, judged on the held-out images."""
    return {
        ("ResNet-50, L0, pilots", "L0", _text(setting), PILOT): _l0(setting, PILOT, judged_on="validation")
        for setting in GATES
    }


def gates(chosen: Iterable[str]) -> Runs:
    """The chosen settings of L0, three seeds.

    Args:
        chosen: Settings of `pilots_of_gates`.
    """
    return {
        ("ResNet-50, L0", "L0", text, seed): _l0(_setting(GATES, text), seed)
        for text in dict.fromkeys(chosen)
        for seed in SEEDS
    }


def mask(level: float, number: int) -> Run:
    """The magnitude pruning whose zeros the others keep; its rate falls in steps, as the paper's.

    Args:
        level: The sparsity of every layer.
        number: Of the mask; its seed.
    """
    warm_up, milestones = 5.0 / WHOLE, (30.0 / WHOLE, 60.0 / WHOLE, 80.0 / WHOLE)
    task = _task(warm_up=warm_up, milestones=milestones)
    return Run(task, GradualMagnitude(_schedule(level, SHORT), hidden="trained"), _steps(SHORT), seed=number)


def kinds(run: Run) -> dict[str, tuple[Origin, int, Cifar10ResNet]]:
    """The kinds of networks that keep a mask's zeros: their origin, the factor of their steps, and their task."""
    assert isinstance(run.task, Cifar10ResNet)
    task, every = run.task, 30.0 / WHOLE
    found: dict[str, tuple[Origin, int, Cifar10ResNet]] = {
        "lottery ticket": (LotteryTicket(run), 1, task),
        "scratch-e": (Scratch(run), 1, task),
        "scratch-e, augmented": (Scratch(run, augmented=True), 1, task),
        "scratch-b": (Scratch(run), 2, task),
    }
    for name in SCHEMES[1:]:
        warm_up, milestones = scheme(name, warm_up=task.warm_up, milestones=task.milestones, length=1.0, every=every)
        own = replace(task, warm_up=warm_up / 2, milestones=tuple(each / 2 for each in milestones))
        found[f"scratch-b, {name}"] = (Scratch(run), 2, own)
    return found


def masks(level: float, number: int, replicas: Iterable[int]) -> Runs:
    """A mask, and the replicas of each kind of network that keeps its zeros.

    Args:
        level: Of `MASK_LEVELS`.
        number: Of the mask.
        replicas: Their numbers; the seed is 100 * (1 + number) + replica.
    """
    run, name = mask(level, number), "ResNet-50, masks"
    found: Runs = {(name, "magnitude", f"{level:g}", number): run}
    for kind, (origin, budget, task) in kinds(run).items():
        for seed in (100 * (1 + number) + replica for replica in replicas):
            kept = replace(run, task=task, technique=None, origin=origin, steps=budget * run.steps, seed=seed)
            found[name, kind, f"{level:g}", seed] = kept
    return found


def _task(**settings: Any) -> Cifar10ResNet:
    return Cifar10ResNet(jpeg=only_jpeg(), held_out=HELD_OUT, **settings)


def _steps(epochs: float) -> int:
    return int(epochs * (IMAGES // Cifar10ResNet.batch_size))


def _schedule(level: float, epochs: float, end: float = 76) -> Cubic:
    """From step 20,000 of 128,000, each 2,000, as `cifar10_resnet` has it."""
    steps = _steps(epochs)
    return Cubic(level, begin=steps * 20 // 128, end=int(steps * end // 128), every=max(steps * 2 // 128, 1))


def _run(technique: Technique | None, epochs: float, seed: int, **settings: Any) -> Run:
    return Run(_task(**settings), technique, _steps(epochs), seed=seed)


def _pruned(name: str, level: float, epochs: float, seed: int, end: float = 76, **settings: Any) -> Run:
    schedule = _schedule(level, epochs, end)
    if name == "random":
        return _run(RandomPruning(schedule), epochs, seed, **settings)
    if name == "magnitude":
        return _run(GradualMagnitude(schedule, hidden="trained"), epochs, seed, **settings)
    technique = GradualMagnitude(schedule, allocation=PerLayer({"fc": 0.8}), hidden="trained")
    run = _run(technique, epochs, seed, **settings)
    return replace(run, select=excluding("conv1.weight"), variant="extended")


def _dropout(
    weight: float, epochs: float, seed: int, begin: int = 20, log_sigma2: float = -15.0, **settings: Any
) -> Run:
    """Variational dropout; the penalty moves weights by rate times coefficient: longer training needs a smaller one."""
    steps = _steps(epochs)
    ramp = Linear(weight * EPOCHS / epochs / IMAGES, begin=steps * begin // 128, end=steps * 68 // 128)
    technique = VariationalDropout(ramp, threshold=0.5, log_sigma2=log_sigma2)
    return _run(technique, epochs, seed, decay_random=True, **settings)


def _beyond(name: str, setting: tuple[Any, float], seed: int, *, pilot: bool = False) -> Run:
    settings = {"judged_on": "validation"} if pilot else {}
    first, second = setting
    if name == "variational dropout":
        weight = second * LONGEST / EPOCHS  # the coefficient itself, not that at 20 epochs
        return _dropout(weight, LONGEST, seed, 0, first, **settings)
    layout = "magnitude" if first == "uniform" else "magnitude, extended"
    return _pruned(layout, 0.98, LONGEST, seed, end=second, **settings)


def _l0(setting: tuple[float, float], seed: int, **settings: Any) -> Run:
    rate, weight = setting
    technique = L0(Constant(weight / rate / IMAGES), weight_decay=Cifar10ResNet.weight_decay)
    return _run(technique, EPOCHS, seed, learned_rate=rate, **settings)


def _text(setting: tuple[Any, ...]) -> str:
    return "/".join(each if isinstance(each, str) else f"{each:g}" for each in setting)


def _setting(settings: Iterable[tuple[Any, ...]], text: str) -> Any:
    """The one of the settings that this is the text of."""
    return next(each for each in settings if _text(each) == text)
