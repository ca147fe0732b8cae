"""Settings chosen on validation scores, with the same number of tuning runs for every technique."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean

from openwork.study.results.budget import TOLERANCE
from openwork.study.results.result import Result


@dataclass(frozen=True)
class Tuned:
    """A tuning run.

    Args:
        technique: Its name.
        settings: What was tried, as text; equal for runs that differ in their seed alone.
        seed: The run's; of a network that keeps zeros, with those of the runs whose zeros they are (`Result.seeds`).
        sparsity: What the model reached, 0-1; None or NaN if the run diverged.
        score: On the validation set, the higher the better; None or NaN if the run diverged.
        level: The sparsity that the settings ask for, 0-1; None where it follows from a penalty, as variational
            dropout's and L0's does, so that the run may serve any level.

    Raises:
        ValueError: For a sparsity or level above 1 or below 0.
    """

    technique: str
    settings: str
    seed: int | tuple[int, ...]
    sparsity: float | None
    score: float | None
    level: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("sparsity", self.sparsity), ("level", self.level)):
            if value is not None and (value < 0 or value > 1):
                run = f"{self.technique} {self.settings}"
                raise ValueError(f"{name} of {run} must be in [0, 1], got {value}; did you pass a percentage?")

    @property
    def diverged(self) -> bool:
        """Whether the run has no model."""
        return not all(value is not None and isfinite(value) for value in (self.sparsity, self.score))


@dataclass(frozen=True)
class Choice:
    """What was chosen of a technique's settings for one level.

    Args:
        technique: Its name.
        level: The sparsity to reach, 0-1.
        settings: The chosen ones; None where none reaches the level.
        sparsity: Their mean over seeds; where none reaches the level, the highest of a setting, None if there is none.
        score: Their mean validation score over seeds; None where none reaches the level.
        tried: The settings that ask for this level, or for none.
        reached: Those of them that reach it.
    """

    technique: str
    level: float
    settings: str | None
    sparsity: float | None
    score: float | None
    tried: int
    reached: int

    def __str__(self) -> str:
        at = f"{self.technique} at {_percent(self.level)}"
        if self.settings is not None:
            return f"{at}: {self.settings}, the best of {self.reached} that reach it, of {self.tried} settings"
        nearest = "all diverged" if self.sparsity is None else f"the sparsest has {_percent(self.sparsity)}"
        return f"{at}: none of {self.tried} settings reaches it" + (f"; {nearest}" if self.tried else "")


def tuned(result: Result, *, technique: str = "", settings: str = "", level: float | None = None) -> Tuned:
    """A result as a tuning run.

    Args:
        result: One that was judged on validation data.
        technique: The name to compare by, such as "magnitude, ERK"; by default the result's.
        settings: What was tried; by default the result's settings.
        level: As for `Tuned`.

    Raises:
        ValueError: If it was judged on the test set: who chooses settings there has no test set left.
    """
    if result.judged_on != "validation":
        raise ValueError(
            f"run {result.id} was judged on {result.judged_on} data; choose settings by runs whose task holds images "
            'out and has judged_on="validation"'
        )
    score = result.score if result.finished else None
    seed = result.seeds if len(result.seeds) > 1 else result.seed
    return Tuned(technique or result.name, settings or result.shared_settings, seed, result.sparsity, score, level)


def choose(runs: Iterable[Tuned], levels: Iterable[float], *, tolerance: float = TOLERANCE) -> list[Choice]:
    """For each technique and level, the settings with the best validation score among those that reach the level.

    Settings that ask for another level are left out; all others count if their mean sparsity is at least the level less
    ``tolerance``. Settings of which a run diverged are never chosen. Of equal scores the sparser settings are, then the
    first by name.

    Args:
        runs: All tuning runs.
        levels: Sparsities, 0-1.
        tolerance: How far below a level still counts (`budget.TOLERANCE`).

    Returns:
        By technique, then by level; where no setting reaches a level the choice says so.

    Raises:
        ValueError: For levels outside [0, 1); if a run is there twice; and if only some of a technique's runs say a
            level, or the same settings with another.
    """
    levels = sorted({round(level, 9) for level in levels})  # 1 - 0.1 and 0.9 are one level
    if wrong := [level for level in levels if not 0 <= level < 1]:
        raise ValueError(f"a level must be in [0, 1), got {wrong[0]}; did you pass a percentage?")
    return [
        _choice(technique, settings, level, tolerance)
        for technique, settings in _by_settings(runs).items()
        for level in levels
    ]


def tuning_runs(runs: Iterable[Tuned]) -> dict[str, dict[float | None, int]]:
    """Technique -> level -> its number of tuning runs, diverged ones too; the level is None where none is said."""
    found: dict[str, dict[float | None, int]] = {}
    for run in runs:
        counts = found.setdefault(run.technique, {})
        counts[run.level] = counts.get(run.level, 0) + 1
    return {name: dict(sorted(counts.items(), key=lambda one: one[0] or 0)) for name, counts in sorted(found.items())}


def check_equal_tuning(runs: Iterable[Tuned]) -> int:
    """The number of tuning runs that every technique had.

    Raises:
        ValueError: If techniques had different numbers, or one of them spread its runs over its levels unequally, by
            more than the one run that a number which is no multiple of the levels leaves over; names the numbers.
    """
    counted = tuning_runs(runs)
    if not counted:
        raise ValueError("there is no tuning run; give those of all techniques")
    totals = {technique: sum(counts.values()) for technique, counts in counted.items()}
    if len(set(totals.values())) > 1:
        listed = ", ".join(f"{technique} {total}" for technique, total in totals.items())
        raise ValueError(f"techniques had different numbers of tuning runs: {listed}; give each {max(totals.values())}")
    for technique, counts in counted.items():
        if max(counts.values()) - min(counts.values()) > 1:
            listed = ", ".join(f"{count} at {_percent(level or 0)}" for level, count in counts.items())
            raise ValueError(f"{technique} spread its tuning runs unequally: {listed}; give each level as many")
    return next(iter(totals.values()))


def _by_settings(runs: Iterable[Tuned]) -> dict[str, list[list[Tuned]]]:
    """Technique -> the runs of each of its settings."""
    found: dict[str, dict[str, dict[int | tuple[int, ...], Tuned]]] = {}
    for run in runs:
        seeds = found.setdefault(run.technique, {}).setdefault(run.settings, {})
        if run.seed in seeds:
            raise ValueError(f"two tuning runs are {run.technique} {run.settings} with seed {run.seed}; give each once")
        if seeds and next(iter(seeds.values())).level != run.level:
            raise ValueError(f"the runs of {run.technique} {run.settings} ask for different levels; name them apart")
        seeds[run.seed] = run
    for technique, settings in found.items():
        if len({run.level is None for seeds in settings.values() for run in seeds.values()}) > 1:
            raise ValueError(f"only some tuning runs of {technique} say a level; give all of them one, or none")
    return {
        technique: [list(seeds.values()) for _, seeds in sorted(settings.items())]
        for technique, settings in sorted(found.items())
    }


def _choice(technique: str, settings: Sequence[Sequence[Tuned]], level: float, tolerance: float) -> Choice:
    tried = [group for group in settings if group[0].level is None or round(group[0].level, 9) == level]
    means = [
        (_mean(group, "score"), _mean(group, "sparsity"), group[0].settings)
        for group in tried
        if not any(run.diverged for run in group)
    ]
    # Rounded: 0.997 and 1 - 0.003 are one number to a reader and not to a computer.
    reaching = [mean for mean in means if round(mean[1] - level + tolerance, 9) >= 0]
    if not reaching:
        sparsest = max((sparsity for _, sparsity, _ in means), default=None)
        return Choice(technique, level, None, sparsest, None, len(tried), 0)
    score, sparsity, chosen = max(reaching, key=lambda mean: mean[:2])  # of equal ones the first
    return Choice(technique, level, chosen, sparsity, score, len(tried), len(reaching))


def _mean(group: Iterable[Tuned], what: str) -> float:
    """Over seeds, or over masks of means over the networks that keep each."""
    found: dict[int, list[float]] = {}
    for run in group:
        found.setdefault(run.seed if isinstance(run.seed, int) else run.seed[-1], []).append(getattr(run, what) or 0.0)
    return fmean(map(fmean, found.values()))


def _percent(fraction: float) -> str:
    return f"{round(100 * fraction, 2):g} %"
