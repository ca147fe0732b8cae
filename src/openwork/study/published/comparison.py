"""The order of the techniques at equal tuning budget, from the published rows: magnitude >= dropout >= L0."""

from collections.abc import Sequence
from dataclasses import dataclass

from openwork.study.published.rows import Published, of, table, written
from openwork.study.results.budget import expected_best, reaching

LEVELS = {"transformer": (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98), "resnet50": (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)}
RANKED = ("magnitude_pruning", "variational_dropout", "l0_regularization")

# Settings that were trained: where fewer are in the rows, the others diverged (pruning) or were left out (the rest).
_TRAINED = {
    ("transformer", "magnitude_pruning"): 72,  # at each level
    ("transformer", "random_pruning"): 90,  # at each level
    ("transformer", "variational_dropout"): 372,
    ("transformer", "l0_regularization"): 930,
    ("resnet50", "magnitude_pruning"): 54,  # at each level
    ("resnet50", "random_pruning"): 54,  # at each level
    ("resnet50", "variational_dropout"): 161,
    ("resnet50", "l0_regularization"): 323,
}


@dataclass(frozen=True)
class Sweep:
    """The scores of one technique's settings at one sparsity level, in two readings of the settings without a row."""

    low: tuple[float, ...]
    """A score for each setting that was trained; one without a row counts as a failure, 0."""
    high: tuple[float, ...]
    """As if no setting had been left out of the rows. Diverged pruning runs are failures here, too."""

    def expected(self, n: int) -> tuple[float, float] | None:
        """The expected best of n random settings, low and high; None where fewer were trained."""
        if n > len(self.low):
            return None
        return expected_best(self.low, n), expected_best(self.high, min(n, len(self.high)))


def sweep(
    results: Sequence[Published], model: str, technique: str, level: float, *, aimed: bool = True
) -> Sweep | None:
    """The scores of one technique at one sparsity level; None without rows.

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
        levels = 1 if aimed else len(LEVELS[model])
        every = (*reaching([(r.sparsity, r.score) for r in at], level), *[0.0] * (levels * trained - len(at)))
        return Sweep(every, every) if found else None
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
) -> str:
    """Whether `better` is expected to reach at least the score of `worse`, with n settings each.

    ``yes``, ``no``, or ``open`` where the answer depends on the settings without a row; ``no rows`` without rows, and
    ``too few`` where fewer than n settings were trained.

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
        return "no rows"
    a, b = ours.expected(n), theirs.expected(n)
    if a is None or b is None:
        return "too few"
    if a[0] >= b[1]:
        return "yes"
    return "no" if a[1] < b[0] else "open"
