"""From rows to points: means and 95 % intervals over seeds, and which points no other one beats."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean, stdev

from openwork.study.evaluation.metric import Metric
from openwork.study.results.score import metric_of
from openwork.study.results.store import Row, write_table

DENSE = "dense"
"""The name of the runs that nothing made sparse."""


@dataclass(frozen=True)
class Point:
    """One operating point of one technique on one task, over its seeds.

    All scores and sparsities are fractions 0–1; a BLEU of 17 is 0.17. Where no run finished, `n` is 0, the means and
    extremes are NaN, and the point is only there to say how many runs diverged.
    """

    task: str
    name: str
    settings: str
    n: int
    """Finished runs, one per seed."""
    diverged: int
    """Runs that diverged; they are in no mean."""
    sparsity: float
    """Mean over seeds, among the weights the technique was given."""
    sparsity_all: float
    """Mean over seeds, among all parameters."""
    metric: Metric
    """What the score is: that of the task's other points, too."""
    score: float
    """Mean test score of the finished plain models."""
    interval: tuple[float, float] | None
    """95 % Student-t interval of the mean score; None with fewer than two seeds."""
    lowest: float
    """Lowest score of a seed."""
    highest: float
    """Highest score of a seed."""
    loss: float
    """Mean test loss."""
    seconds: float
    """Mean duration of a run."""
    peak_memory: float
    """Mean of the runs' peak memory in bytes; NaN where it was not measured."""
    execution: str
    """``simulated`` or ``executed``, or both where runs differ: what the zeros were in the arithmetic."""


def longer_apart(rows: Sequence[Row]) -> list[Row]:
    """The rows, where runs of a technique that have other numbers of steps than most of it are a technique by name.

    A longer training is another budget: in one line with the others it would make the technique look better than it
    is. Rows of the dense model and of runs that keep another run's zeros stay as they are.
    """
    lengths: dict[tuple[str, str], Counter[int]] = {}
    for row in rows:
        lengths.setdefault((row["task"], row["name"]), Counter())[_steps(row)] += 1
    usual = {key: max(counts, key=lambda steps: (counts[steps], -steps)) for key, counts in lengths.items()}
    return [
        row
        if _steps(row) == usual[row["task"], row["name"]] or row["name"] == DENSE or row["run"].get("zeros")
        else {**row, "name": f"{row['name']}, {_steps(row):,} steps"}
        for row in rows
    ]


def _steps(row: Row) -> int:
    return int(row["run"].get("steps", row["step"]))


def summarize(rows: Iterable[Row]) -> list[Point]:
    """One point per (task, name, settings), sorted by task, name, sparsity and settings.

    Raises ValueError if two runs of a point have the same seed: they differ in something that the
    settings do not say, and a mean over them would be a mean over nothing.
    """
    groups: dict[tuple[str, str, str], list[Row]] = {}
    tasks: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["name"], row["settings"]), []).append(row)
        tasks.setdefault(row["task"], []).append(row)
    metrics = {task: metric_of(members) for task, members in tasks.items()}
    points = [_point(metrics[task], task, name, settings, group) for (task, name, settings), group in groups.items()]
    return sorted(points, key=lambda p: (p.task, p.name, p.n == 0, p.sparsity if p.n else 0, p.settings))


def student_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the mean of `values`, or None for fewer than two.

    mean ± t(0.975, n − 1) · s / √n with the sample standard deviation s (n − 1 in its denominator);
    it is not cut at 0 or 1. Student, "The probable error of a mean", Biometrika 6, 1908.
    """
    if len(values) < 2:
        return None
    mean = fmean(values)
    half = student_factor(len(values)) * stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


@cache
def student_factor(n: int) -> float:
    """t(0.975, n − 1), the factor of the 95 % interval of a mean of n values; n is at least 2."""
    try:
        from scipy.stats import t
    except ImportError as error:
        raise ImportError('intervals need scipy: pip install "openwork[study]"') from error
    return float(t.ppf(0.975, n - 1))


def tried(points: Iterable[Point]) -> dict[str, list[tuple[float, float] | None]]:
    """For each technique, (sparsity, score) of every setting that was tried, as a tuning budget sees them.

    A diverged seed counts with score 0, so that the score is what one run of the setting can be expected to
    give; a setting whose runs all diverged is None. The dense runs are left out.
    """
    found: dict[str, list[tuple[float, float] | None]] = {}
    for p in points:
        if p.name != DENSE:
            pair = (p.sparsity, p.score * p.n / (p.n + p.diverged)) if p.n else None
            found.setdefault(p.name, []).append(pair)
    return found


def pareto(points: Iterable[Point]) -> list[Point]:
    """The points that no other point beats, in order of sparsity.

    A point is beaten by one with at least its sparsity and at least its mean score, and more of
    one of the two; equal points are both kept. Sparsities are compared to 0.01 %: below that lies
    the rounding of whole weights per layer. Points without a finished run never count.

    Raises ValueError for points of more than one task: their scores cannot be compared.
    """
    measured = [point for point in points if point.n]
    if len(tasks := {point.task for point in measured}) > 1:
        raise ValueError(f"points of one task can be compared, got {sorted(tasks)}; split them")
    front = [p for p in measured if not any(_beats(other, p) for other in measured)]
    return sorted(front, key=lambda p: (p.sparsity, p.name, p.settings))


def nearest(points: Iterable[Point], sparsity: float) -> dict[str, Point]:
    """For each technique, its point nearest to `sparsity` (0–1); of two, the one with the higher score.

    The dense runs and points without a finished run are left out. By name, sorted.
    """
    best: dict[str, Point] = {}
    for point in points:
        if point.n == 0 or point.name == DENSE:
            continue
        held = best.get(point.name)
        if held is None or _distance(point, sparsity) < _distance(held, sparsity):
            best[point.name] = point
    return dict(sorted(best.items()))


def write_points(points: Iterable[Point], path: Path) -> None:
    """Writes one line per point to `path`, replacing it in one step.

    The columns are the fields of `Point`, with ``interval_low, interval_high`` for the interval; cells are empty where
    there is no interval or no finished run. Scores are in the unit of ``metric``, as in a row: a BLEU goes to 100.
    """
    header = (
        *("task", "name", "settings", "n", "diverged", "sparsity", "sparsity_all", "metric", "score"),
        *("interval_low", "interval_high", "lowest", "highest", "loss", "seconds", "peak_memory", "execution"),
    )
    lines = (
        (
            *(p.task, p.name, p.settings, p.n, p.diverged, p.sparsity, p.sparsity_all, p.metric.key),
            *(
                None if score is None else p.metric.value(score)
                for score in (p.score, *(p.interval or (None, None)), p.lowest, p.highest)
            ),
            *(p.loss, p.seconds, p.peak_memory, p.execution),
        )
        for p in points
    )
    write_table(header, lines, path)


def _point(metric: Metric, task: str, name: str, settings: str, group: Sequence[Row]) -> Point:
    by_seed: dict[int, Row] = {}
    for row in group:
        twin = by_seed.setdefault(row["seed"], row)
        if twin is not row:
            raise ValueError(
                f"runs {twin['id']} and {row['id']} are both {name} {settings} on {task} with seed "
                f"{row['seed']}; say in the settings how they differ, or keep them in two studies"
            )
    finished = [row for row in group if row["status"] == "finished"]
    scores = [metric.score(row["after"][metric.key]) for row in finished]
    return Point(
        task=task,
        name=name,
        settings=settings,
        n=len(finished),
        diverged=len(group) - len(finished),
        sparsity=_mean([row["sparsity"]["selected"] for row in finished]),
        sparsity_all=_mean([row["sparsity"]["all"] for row in finished]),
        metric=metric,
        score=_mean(scores),
        interval=student_interval(scores),
        lowest=min(scores, default=math.nan),
        highest=max(scores, default=math.nan),
        loss=_mean([row["after"]["loss"] for row in finished]),
        seconds=_mean([row["cost"]["seconds"] for row in finished]),
        peak_memory=_mean([b for row in finished if (b := row["cost"].get("peak_memory_bytes")) is not None]),
        execution=", ".join(sorted({row["execution"] for row in finished})),
    )


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else math.nan


def _beats(a: Point, b: Point) -> bool:
    ours, theirs = round(a.sparsity, 4), round(b.sparsity, 4)
    no_worse = ours >= theirs and a.score >= b.score
    return no_worse and (ours > theirs or a.score > b.score)


def _distance(point: Point, sparsity: float) -> tuple[float, float]:
    # Rounded: 0.85 and 0.95 are equally near to 0.9, whatever their last bits say.
    return round(abs(point.sparsity - sparsity), 9), -point.score
