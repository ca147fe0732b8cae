"""The order of the techniques at equal tuning budget, from the published rows: magnitude >= dropout >= L0."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from openwork.study.published.rows import Published, of, table, written
from openwork.study.results.budget import expected_best, reaching, resampled_best

LEVELS = {"transformer": (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98), "resnet50": (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)}
RANKED = ("magnitude_pruning", "variational_dropout", "l0_regularization")

# Settings of each grid. Fewer are in the rows: the others diverged or were left out, and no file says which.
_TRAINED = {
    ("transformer", "magnitude_pruning"): 72,  # at each level
    ("transformer", "random_pruning"): 90,  # at each level
    ("transformer", "variational_dropout"): 372,
    ("transformer", "l0_regularization"): 930,
    ("resnet50", "magnitude_pruning"): 54,  # at each level
    ("resnet50", "random_pruning"): 54,  # at each level
    ("resnet50", "variational_dropout"): 180,
    ("resnet50", "l0_regularization"): 324,
}

_DRAWS = 2_000


@dataclass(frozen=True)
class Sweep:
    """The scores of one technique's settings at one sparsity level, in two readings of the settings without a row."""

    low: tuple[float, ...]
    """A score for each setting of the grid; one without a row counts as a failure, 0."""
    high: tuple[float, ...]
    """The scores of the settings with a row, as if the grid had no others."""

    def expected(self, n: int) -> tuple[float, float] | None:
        """The expected best of n random settings, low and high; None where the grid has fewer."""
        if n > len(self.low):
            return None
        return expected_best(self.low, n), expected_best(self.high, min(n, len(self.high)))


@dataclass(frozen=True)
class Verdict:
    """Whether one technique is expected to reach at least the score of another."""

    answer: str
    """``yes`` or ``no`` where both readings of the settings without a row say so, ``open`` where they do not agree;
    ``no rows`` without rows, ``too few`` where a grid has fewer settings than the budget."""
    interval: tuple[float, float] | None = None
    """Of the difference that the answer rests on, in which each missing setting speaks against the answer: 95 %,
    percentile bootstrap over the settings of both techniques. None without a ``yes`` or ``no``."""

    @property
    def crosses(self) -> bool:
        """Whether the interval holds differences of both signs, so that other settings could turn the answer."""
        return self.interval is not None and self.interval[0] < 0 <= self.interval[1]

    @property
    def word(self) -> str:
        """The answer, with a question mark where the interval crosses 0."""
        return f"{self.answer}?" if self.crosses else self.answer


def sweep(
    results: Sequence[Published], model: str, technique: str, level: float, *, aimed: bool = True
) -> Sweep | None:
    """The scores of one technique at one sparsity level; None without a row.

    Pruning is told its sparsity, so its settings are those aimed at the level. The sparsity of variational dropout
    and L0 is an outcome: all of their settings count, 0 where they are denser than the level; one of variational
    dropout counts with its best threshold, which costs no training.

    Args:
        results: Published rows.
        model: ``transformer`` or ``resnet50``.
        technique: As the release calls it.
        level: The sparsity, 0-1; one of `LEVELS`.
        aimed: If False, pruning's settings are those of all levels, too: one sweep for all of them.
    """
    found = of(results, model, technique)
    trained = _TRAINED[model, technique]
    if "pruning" in technique:
        at = found if not aimed else [r for r in found if r.sparsity == level]
        scores = reaching([(r.sparsity, r.score) for r in at], level)
        missing = (1 if aimed else len(LEVELS[model])) * trained - len(at)
        return Sweep((*scores, *[0.0] * missing), tuple(scores)) if at else None
    if not found and (model, technique) == ("resnet50", "l0_regularization"):
        return _bound(level, trained)
    settings: dict[str, list[Published]] = {}
    for r in found:
        settings.setdefault(written({k: v for k, v in r.settings.items() if k != "threshold"}), []).append(r)
    scores = [max(reaching([(r.sparsity, r.score) for r in group], level)) for group in settings.values()]
    return Sweep((*scores, *[0.0] * (trained - len(scores))), tuple(scores)) if found else None


def _bound(level: float, trained: int) -> Sweep:
    """ResNet-50's L0 from the table of its groups: no run of a group scores more than the group's best."""
    groups = [g for g in table("resnet50_l0") if float(g["highest_sparsity"]) >= level]
    # The best of one group, 40.5 %, is a dense model: its comment says that it has no zeros.
    best = max(float(g["best_top1"]) for g in groups if "only at exactly 0 sparsity" not in g["comment"])
    return Sweep((0.0,) * trained, (best,) * trained)


def verdict(
    results: Sequence[Published], model: str, better: str, worse: str, level: float, n: int, *, aimed: bool = True
) -> Verdict:
    """Whether `better` is expected to reach at least the score of `worse`, with n settings each.

    Args:
        results: Published rows.
        model: As for `sweep`.
        better: A technique, as the release calls it.
        worse: Another one.
        level: As for `sweep`.
        n: The tuning budget of each.
        aimed: As for `sweep`.
    """
    ours, theirs = (sweep(results, model, name, level, aimed=aimed) for name in (better, worse))
    if ours is None or theirs is None:
        return Verdict("no rows")
    a, b = ours.expected(n), theirs.expected(n)
    if a is None or b is None:
        return Verdict("too few")
    if a[0] >= b[1]:
        return Verdict("yes", _interval(ours.low, theirs.high, n))
    return Verdict("no", _interval(ours.high, theirs.low, n)) if a[1] < b[0] else Verdict("open")


def _interval(ours: Sequence[float], theirs: Sequence[float], n: int) -> tuple[float, float]:
    generator = np.random.default_rng(0)
    a, b = (resampled_best(scores, min(n, len(scores)), _DRAWS, generator) for scores in (ours, theirs))
    low, high = np.quantile(a - b, (0.025, 0.975))
    return float(low), float(high)
