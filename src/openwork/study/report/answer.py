"""The answer of a report, in one sentence: which technique at which sparsity, how sure that is, or that it is open.

Techniques are compared as `openwork.study.results.tournament` does: seed by seed, corrected for all comparisons.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from openwork.study.evaluation.metric import Metric
from openwork.study.report.style import percent, written
from openwork.study.results.claims import check_margin
from openwork.study.results.frontier import at_levels
from openwork.study.results.result import Result
from openwork.study.results.score import metric_of
from openwork.study.results.statistics import Point, nearest
from openwork.study.results.tournament import Level, Standing, Tournament, tournament
from openwork.words import count

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.98)
"""The sparsities at which techniques are compared."""
REFERENCE = 0.9
"""The one of which the answer speaks if it is decided there."""


def compared(results: Sequence[Result], margin: float | None = None) -> Tournament | None:
    """The techniques of one task at each of `LEVELS` that two of them reach; None where there is no such level.

    Args:
        results: Those of the task.
        margin: The smallest difference that matters, in points or in the metric's own unit; None claims no equality.

    Raises:
        ValueError: For a margin that no difference can reach.
    """
    metric, rows = metric_of(results), at_levels(results, LEVELS)
    if (score := scored(margin, metric)) is not None:
        check_margin(score, metric)
    there = Counter(level for _, level in {(name, level) for name, level, *_ in rows})
    rows = [row for row in rows if there[row[1]] > 1]
    return tournament(rows, margin=score, metric=metric, shared=True) if rows else None


def scored(margin: float | None, metric: Metric) -> float | None:
    """A margin in points, or in the unit of a metric without bounds, as a difference of scores.

    Raises:
        ValueError: If no two scores differ by so many points.
    """
    if margin is None or metric.full is None:
        return margin
    if margin >= 100:
        raise ValueError(f"margin must be below 100 points of {metric.name}, got {margin:g}; half a point is 0.5")
    return margin / 100


def answer(points: Sequence[Point], found: Tournament | None) -> str:
    """One sentence: the best technique at one sparsity, with its interval and n, or that this is not decided.

    The sparsity is 90 % if the best there is shown to be better than every other technique, or they are shown to be as
    good; otherwise the sparsest where that is so; otherwise the sparsest where it is shown to be better than any;
    otherwise the one nearest to 90 %.

    Args:
        points: Those of one task.
        found: `compared` of the task.
    """
    if found is None:
        return _not_compared(points)
    level = _level(found)
    best, *others = level.standings
    metric = found.metric or points[0].metric
    by_verdict = {word: [one.technique for one in others if one.verdict.startswith(word)] for word in _WORDS}
    beaten, good, equal, undecided, better = by_verdict.values()
    at, value, lead = f"{100 * level.level:g} % sparsity", _value(best, metric), _lead(best, others[0], metric)
    leads = f"at {at} {best.technique} has the best {'mean ' if best.n > 1 else ''}{metric.name}, {value}{lead}"
    within = "" if found.margin is None else f" within {metric.difference(found.margin)[1:]}{_points(metric)}"
    more = []
    if better:  # the best mean is over other seeds than theirs
        said = f"Not decided: {leads}"
        are = "is" if len(better) == 1 else "are"
        more.append(f"by the seeds that both have {_listed(better)} {are} shown to be better than {best.technique}")
    elif undecided and not any(_decided(one) for one in level.standings):
        why = "one seed has no spread" if best.n == 1 else "no technique is shown to be better than another"
        said = f"Not decided, as {why}: {leads}"
    elif undecided:
        said = f"Not decided: {leads}"
    elif beaten and not good and not equal:
        name = "" if metric.percent or metric.name in metric.good[2] else f"{metric.name} "
        said = f"At {at} {best.technique} is {metric.good[2]}, {name}{value}{lead}"
    elif good and len(others) - len(beaten) > 1:  # what was tested is each beside the best
        said = f"At {at} {_listed([*good, *equal])} are as good as {best.technique}{within}: it has {value}{lead}"
    else:
        names = _listed([best.technique, *good, *equal])
        said = f"At {at} {names} are {f'as good as each other{within}' if good else 'equal'}: {value}{lead}"
    if beaten and (undecided or good or equal or better):
        more.append(f"{best.technique} is shown to be better than {_listed(beaten)}")
    if good and (undecided or better):
        more.append(f"{_listed(good)} {'is' if len(good) == 1 else 'are'} shown to be as good{within}")
    return "; ".join([said, *more, *_dense(points)]) + "."


def how(results: Iterable[Result], found: Tournament | None) -> str:
    """How techniques were compared, and which could not be, in a few sentences; empty where none were."""
    if found is None:
        return ""
    levels = _listed([f"{100 * level.level:g}" for level in found.levels])
    said = (
        f"Compared seed by seed, each seed's frontier read at {levels} % sparsity; what is shown has p below 5 % after "
        f"Holm's correction for all {found.family} comparisons. Intervals are of 95 %, each by itself."
    )
    if found.margin is not None and found.metric is not None:
        margin = f"{found.metric.difference(found.margin)[1:]}{_points(found.metric)}"
        said += f" As good: a difference below {margin}, by two one-sided tests."
    named = {one.technique for level in found.levels for one in level.standings}
    if missing := sorted({r.name for r in results if not r.dense} - named):
        said += f" Not compared, as not all of their seeds reach one of these: {_listed(missing)}."
    return said


_WORDS = ("worse", "as good as", "equal", "undecided", "better")


def _decided(standing: Standing) -> bool:
    return standing.verdict.startswith(("worse", "as good as", "equal"))


def _level(found: Tournament) -> Level:
    """The level of which the answer speaks."""
    sparsest = found.levels[::-1]
    whole = [level for level in sparsest if all(map(_decided, level.standings[1:]))]
    part = [level for level in sparsest if any(one.verdict.startswith("worse") for one in level.standings)]
    asked = [level for level in whole if level.level == REFERENCE]
    near = sorted(sparsest, key=lambda level: abs(level.level - REFERENCE))
    return [*asked, *whole, *part, *near][0]


def _value(best: Standing, metric: Metric) -> str:
    interval = f"95 % interval {metric.range(*best.interval)}, " if best.interval else ""
    return f"{metric.text(best.mean)} ({interval}n = {best.n})"


def _lead(best: Standing, other: Standing, metric: Metric) -> str:
    """How far the best is ahead of another, and by which seeds where these are not all of the best's."""
    if other.difference is None:
        return f"; the next is {other.technique}, with other seeds"
    mean, ends = written(other.difference, metric, sign=-1)
    shared = f" by the {count(other.difference.n, 'seed')} in common" if other.difference.n != best.n else ""
    return f", {mean}{_points(metric)}{f' ({ends})' if ends else ''} against {other.technique}{shared}"


def _points(metric: Metric) -> str:
    return "" if metric.full is None else " points"


def _dense(points: Iterable[Point]) -> list[str]:
    dense = [point for point in points if point.dense and point.n]
    if not dense:
        return []
    best = max(dense, key=lambda point: point.score)
    who = "the dense model" if len(dense) == 1 else f"the best of {len(dense)} dense models"
    return [f"{who} has {best.metric.text(best.score)} ({_spread(best)})"]


def _not_compared(points: Sequence[Point]) -> str:
    near = list(nearest(points, REFERENCE).values())
    if not near:
        return "No sparse run has finished."
    if len(near) == 1:
        said = f"{near[0].name} is the only technique measured: {_measured(near[0])}"
    else:
        levels = _listed([f"{100 * level:g}" for level in LEVELS])
        said = f"Not decided, as no two techniques were measured at one sparsity of {levels} %: "
        said += _listed([f"{point.name} has {_measured(point)}" for point in near])
    return "; ".join([said, *_dense(points)]) + "."


def _measured(point: Point) -> str:
    name = "" if point.metric.percent else f"{point.metric.name} "
    return f"{name}{point.metric.text(point.score)} at {percent(point.sparsity)} sparsity ({_spread(point)})"


def _spread(point: Point) -> str:
    interval = f"95 % interval {point.metric.range(*point.interval)}, " if point.interval else ""
    return f"{interval}n = {point.n}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
