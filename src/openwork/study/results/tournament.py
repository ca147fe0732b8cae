"""Many techniques at many levels, compared seed by seed: at each level an order, and what of it is shown.

Who looks best is partly lucky, and a test against a winner that the same scores have chosen takes that luck for merit.
So the family of Holm's correction is all that could have been asked: every pair of techniques at every level. Where the
technique to compare with was named before these runs, the family is the comparisons with it, and smaller. Of two
techniques it is the levels.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from openwork.study.evaluation.metric import Metric
from openwork.study.results.claims import ALPHA, as_good_as, check_margin, holm
from openwork.study.results.paired import Difference, paired
from openwork.study.results.store import write_table
from openwork.study.results.student import bounded_interval


class Scored(NamedTuple):
    """The score of one run: technique, level (sparsity, 0-1), seed, and score; None or NaN if the run diverged."""

    technique: str
    level: float
    seed: int
    score: float | None


@dataclass(frozen=True)
class Standing:
    """One technique at one level.

    Args:
        technique: Its name.
        mean: Of its scores; a diverged run counts with the worst.
        interval: The 95 % interval of the mean (`bounded_interval`).
        n: The number of seeds.
        diverged: How many of them diverged.
        difference: How much higher it scores than the reference; None for the reference itself, and without a seed
            that both have.
        p: Of the difference, after Holm's correction.
        p_as_good: Of the claim that the two differ by less than the margin, after Holm's correction over the same
            comparisons; None without a margin.
        verdict: "reference", or, compared with it: "better" or "worse" (p below 5 %), with ", within the margin" where
            it is also shown to differ by less; "as good as"; "equal" where no seed differs; otherwise "undecided".
    """

    technique: str
    mean: float
    interval: tuple[float, float] | None
    n: int
    diverged: int
    difference: Difference | None
    p: float | None
    p_as_good: float | None
    verdict: str


@dataclass(frozen=True)
class Level:
    """The techniques at one level.

    Args:
        level: The sparsity, 0-1.
        reference: The technique that the others are compared with: the highest mean, or the one that was named before.
        standings: By mean, the highest first.
        absent: The techniques that have no run here.
    """

    level: float
    reference: str
    standings: tuple[Standing, ...]
    absent: tuple[str, ...]


@dataclass(frozen=True)
class Tournament:
    """What `tournament` found.

    Args:
        levels: From the least sparse.
        family: The number of comparisons that Holm's correction is for.
        margin: Differences below it do not matter, in the unit of the score; None where nobody said.
        metric: That of the scores.
    """

    levels: tuple[Level, ...]
    family: int
    margin: float | None
    metric: Metric | None


def tournament(
    runs: Iterable[tuple[str, float, int, float | None]],
    *,
    margin: float | None = None,
    reference: Mapping[float, str] | None = None,
    worst: float | None = None,
    metric: Metric | None = None,
    shared: bool = False,
) -> Tournament:
    """Compares every technique at each level with the best one there, seed by seed, corrected for all comparisons.

    The chance that any "better" or "worse" in it is wrong is at most 5 %, and the chance that any "as good as" is wrong
    likewise. Intervals are not corrected: each holds by itself.

    Args:
        runs: `Scored` rows. A run that serves several levels has a row at each.
        margin: The smallest difference of scores that matters, chosen before the runs; None claims no equality.
        reference: Level -> the technique to compare with, named without looking at these scores, for example by the
            validation scores of the tuning runs. By default it is at each level the one with the highest mean.
        worst: The score that a diverged run counts with (`worst_score`); None refuses diverged runs.
        metric: That of the scores.
        shared: Whether two techniques with other seeds at a level are compared by the seeds that both have; by default
            that is an error. Without such a seed the comparison counts in the family and is undecided.

    Raises:
        ValueError: If there is no run, one is there twice, or one diverged and ``worst`` is None; for a level outside
            [0, 1); if two techniques have other seeds at a level; and if a reference has no runs or a level none.
    """
    if margin is not None:
        check_margin(margin, metric)
    scores, diverged = _by_level(runs, worst)
    references = {level: _reference(reference, level, found) for level, found in scores.items()}
    differences = {
        (level, one, other): _paired(level, one, other, found, metric, shared=shared)
        for level, found in scores.items()
        for one, other in _asked(found, references[level], every_pair=reference is None)
    }
    as_good = [None if margin is None or one is None else as_good_as(one, margin).p for one in differences.values()]
    p = dict(zip(differences, holm([None if one is None else one.p for one in differences.values()]), strict=True))
    p_as_good = dict(zip(differences, holm(as_good), strict=True))

    def standing(level: float, technique: str) -> Standing:
        values = list(scores[level][technique].values())
        compared = level, technique, references[level]
        is_reference = technique == references[level]
        return Standing(
            technique=technique,
            mean=fmean(values),
            interval=bounded_interval(values, metric),
            n=len(values),
            diverged=diverged.get((level, technique), 0),
            difference=differences.get(compared),
            p=p.get(compared),
            p_as_good=p_as_good.get(compared),
            verdict="reference"
            if is_reference
            else verdict(differences.get(compared), p.get(compared), p_as_good.get(compared)),
        )

    techniques = sorted({technique for found in scores.values() for technique in found})
    levels = tuple(
        Level(
            level=level,
            reference=references[level],
            standings=tuple(standing(level, technique) for technique in _ranked(found)),
            absent=tuple(technique for technique in techniques if technique not in found),
        )
        for level, found in scores.items()
    )
    return Tournament(levels, len(differences), margin, metric)


def write_tournament(found: Tournament, path: Path) -> None:
    """Writes a line for each technique at each level to `path`, replacing it in one step.

    Means and differences are in the unit of the metric, accuracy from 0 to 1; ``p`` is that of the comparison alone,
    ``p_holm`` and ``p_as_good_holm`` are corrected for the whole table. The reference has no difference.
    """
    value = found.metric.value if found.metric else float

    def ends(interval: tuple[float, float] | None) -> tuple[float | None, float | None]:
        if interval is None:
            return None, None
        low, high = sorted(map(value, interval))
        return low, high

    header = (
        *("level", "reference", "technique", "n", "diverged", "mean", "mean_low", "mean_high"),
        *("difference", "difference_low", "difference_high", "p", "p_holm", "p_as_good_holm", "verdict"),
    )
    lines = (
        (
            *(level.level, level.reference, one.technique, one.n, one.diverged, value(one.mean), *ends(one.interval)),
            *((value(one.difference.mean), *ends(one.difference.interval())) if one.difference else (None, None, None)),
            *(one.difference.p if one.difference else None, one.p, one.p_as_good, one.verdict),
        )
        for level in found.levels
        for one in level.standings
    )
    write_table(header, lines, path)


_Scores = dict[str, dict[int, float]]  # technique -> seed -> score


def _by_level(
    runs: Iterable[tuple[str, float, int, float | None]], worst: float | None
) -> tuple[dict[float, _Scores], dict[tuple[float, str], int]]:
    """Level -> technique -> seed -> score, and how many runs of each technique diverged at each level."""
    found: dict[float, _Scores] = {}
    diverged: dict[tuple[float, str], int] = {}
    for technique, level, seed, score in runs:
        if not 0 <= level < 1:
            raise ValueError(f"a level must be in [0, 1), got {level}; did you pass a percentage?")
        level = round(level, 9)  # 1 - 0.1 and 0.9 are one level
        by_seed = found.setdefault(level, {}).setdefault(technique, {})
        if seed in by_seed:
            raise ValueError(f"{technique} has two runs at {100 * level:g} % with seed {seed}; give each once")
        if score is None or not isfinite(score):
            if worst is None:
                at = f"{100 * level:g} % with seed {seed}"
                raise ValueError(f"{technique} diverged at {at}; say with which score it counts: worst=")
            diverged[level, technique] = diverged.get((level, technique), 0) + 1
            score = worst
        by_seed[seed] = score
    if not found:
        raise ValueError("there is no run to compare; give rows of technique, level, seed and score")
    return dict(sorted(found.items())), diverged


def _ranked(scores: _Scores) -> list[str]:
    """The techniques, the highest mean first, of equal ones by name."""
    return sorted(scores, key=lambda technique: (-fmean(scores[technique].values()), technique))


def _reference(named: Mapping[float, str] | None, level: float, scores: _Scores) -> str:
    if named is None:
        return _ranked(scores)[0]
    named = {round(at, 9): technique for at, technique in named.items()}
    if level not in named:
        raise ValueError(f"there is no reference at {100 * level:g} %; name one, or none at all")
    if named[level] not in scores:
        raise ValueError(f"the reference {named[level]} has no run at {100 * level:g} %; name one of {sorted(scores)}")
    return named[level]


def _asked(scores: _Scores, reference: str, *, every_pair: bool) -> list[tuple[str, str]]:
    """The comparisons of one level; each pair ends with the technique that stands higher, or with the reference."""
    ranked = _ranked(scores)
    if every_pair:
        return [(one, other) for other, one in combinations(ranked, 2)]
    return [(one, reference) for one in ranked if one != reference]


def _paired(
    level: float, one: str, other: str, scores: _Scores, metric: Metric | None, *, shared: bool
) -> Difference | None:
    ours, theirs = scores[one], scores[other]
    if shared:
        both = ours.keys() & theirs.keys()
        ours, theirs = ({seed: side[seed] for seed in both} for side in (ours, theirs))
        if not both:
            return None
    try:
        return paired(ours, theirs, metric=metric)
    except ValueError as error:
        raise ValueError(f"{one} (ours) and {other} (theirs) at {100 * level:g} %: {error}") from error


def verdict(difference: Difference | None, p: float | None, p_as_good: float | None) -> str:
    """What a comparison shows: one of `Standing.verdict`, of which "reference" is none.

    Args:
        difference: How much higher ours scores; None where there was nothing to pair.
        p: Of the difference, after Holm's correction.
        p_as_good: Of the claim that it is below a margin, after Holm's correction; None without a margin.
    """
    if difference is None:
        return "undecided"
    within = p_as_good is not None and p_as_good < ALPHA
    if p is not None and p < ALPHA:
        return ("better" if difference.mean > 0 else "worse") + (", within the margin" if within else "")
    if within:
        return "as good as"
    return "equal" if not any(difference.values) else "undecided"
