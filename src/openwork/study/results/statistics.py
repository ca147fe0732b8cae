"""From rows to points: means and 95 % intervals over seeds, and which points no other one beats."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from openwork.study.evaluation.metric import Metric
from openwork.study.results.frontier import frontier, place
from openwork.study.results.replicates import finished_replicates, replicate_means
from openwork.study.results.result import Result
from openwork.study.results.score import metric_of, worst_score
from openwork.study.results.store import write_table
from openwork.study.results.student import bounded_interval


@dataclass(frozen=True)
class Point:
    """One operating point of one technique on one task, over its seeds.

    Sparsities are fractions 0–1, and so are scores where the metric has bounds: a BLEU of 17 is 0.17. Where no run
    finished, `n` is 0, the means and extremes are NaN, and the point is only there to say how many runs diverged.
    """

    task: str
    name: str
    settings: str
    group: str
    """What its results have in common: see `Result.group`."""
    dense: bool
    """Whether nothing made the models sparse."""
    n: int
    """Replicates with a finished run (`Result.replicate`): one for each seed, or for each mask whose zeros are kept."""
    runs: int
    """Finished runs: more than `n` where several keep the zeros of one run."""
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
    """95 % interval of the mean score (`bounded_interval`); None with fewer than two seeds."""
    lowest: float
    """Lowest score of a run."""
    highest: float
    """Highest score of a run."""
    loss: float
    """Mean test loss; NaN where the task measures none."""
    seconds: float
    """Mean duration of a run."""
    peak_memory: float
    """Mean of the runs' peak memory in bytes; NaN where it was not measured."""
    execution: str
    """``simulated`` or ``executed``, or both where runs differ: what the zeros were in the arithmetic."""

    @property
    def counted(self) -> str:
        """``n``, and in brackets how many runs there are, where that differs, and how many diverged."""
        more = [
            *([f"{self.runs} runs"] if self.runs != self.n else []),
            *([f"{self.diverged} diverged"] if self.diverged else []),
        ]
        return f"{self.n} ({', '.join(more)})" if more else str(self.n)


def without_parts(results: Iterable[Result]) -> list[Result]:
    """The results without those of first parts of a training (`Task.first`), from whose weights others go on.

    Their learning rate has not come to its end, so they are no models to compare. Where there is nothing else, all.
    """
    results = list(results)
    return [result for result in results if result.run.get("task", {}).get("beginning", 1.0) == 1.0] or results


def summarize(results: Iterable[Result]) -> list[Point]:
    """One point for each group of results that differ in their seeds alone, sorted by task, name and sparsity.

    Raises:
        ValueError: If two results of a group have the same seeds, so that their mean would be no mean over seeds, and
            if those of a task are judged by different metrics.
    """
    groups: dict[str, list[Result]] = {}
    tasks: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.group, []).append(result)
        tasks.setdefault(result.task, []).append(result)
    for members in tasks.values():
        metric_of(members)
    points = [_point(group) for group in groups.values()]
    return sorted(points, key=lambda p: (p.task, p.name, p.n == 0, p.sparsity if p.n else 0, p.settings, p.group))


def tried(points: Iterable[Point]) -> dict[str, list[tuple[float, float] | None]]:
    """For each technique, (sparsity, score) of every setting of one task that was tried, as a tuning budget sees them.

    A diverged seed counts with the worst score (`worst_of`), so that the score is the expected one of a single run of
    the setting; a setting whose runs all diverged is None. The dense runs are left out.
    """
    points = list(points)
    worst = worst_of(points)
    found: dict[str, list[tuple[float, float] | None]] = {}
    for p in points:
        if not p.dense:
            pair = (p.sparsity, (p.score * p.runs + worst * p.diverged) / (p.runs + p.diverged)) if p.n else None
            found.setdefault(p.name, []).append(pair)
    return found


def worst_of(points: Iterable[Point]) -> float:
    """The score of a diverged run beside these points of one task; 0 where none of them has a finished run."""
    measured = [point for point in points if point.n]
    return worst_score(measured[0].metric, [point.lowest for point in measured]) if measured else 0.0


def pareto(points: Iterable[Point]) -> list[Point]:
    """The points that no other point beats (`frontier.beats`, `frontier.place`), in order of sparsity.

    Equal points are all kept. Points without a finished run never count.

    Raises:
        ValueError: For points of more than one task: their scores cannot be compared.
    """
    measured = [point for point in points if point.n]
    if len(tasks := {point.task for point in measured}) > 1:
        raise ValueError(f"points of one task can be compared, got {sorted(tasks)}; split them")
    front = set(frontier(place(p.sparsity, p.score) for p in measured))
    unbeaten = [p for p in measured if place(p.sparsity, p.score) in front]
    return sorted(unbeaten, key=lambda p: (p.sparsity, p.name, p.settings))


def nearest(points: Iterable[Point], sparsity: float) -> dict[str, Point]:
    """For each technique, its point nearest to `sparsity` (0–1); of two, the one with the higher score.

    The dense runs and points without a finished run are left out. By name, sorted.
    """
    best: dict[str, Point] = {}
    for point in points:
        if point.n == 0 or point.dense:
            continue
        held = best.get(point.name)
        if held is None or _distance(point, sparsity) < _distance(held, sparsity):
            best[point.name] = point
    return dict(sorted(best.items()))


def write_points(points: Iterable[Point], path: Path) -> None:
    """Writes one line per point to `path`, replacing it in one step.

    The columns are the fields of `Point`, with ``interval_low, interval_high`` for the interval; cells are empty where
    there is no interval or no finished run. ``score`` and what follows are values of ``metric``: a BLEU goes to 100.
    """
    header = (
        *("task", "name", "settings", "n", "diverged", "sparsity", "sparsity_all", "metric", "score"),
        *("interval_low", "interval_high", "lowest", "highest", "loss", "seconds", "peak_memory", "execution", "runs"),
    )
    lines = (
        (
            *(p.task, p.name, p.settings, p.n, p.diverged, p.sparsity, p.sparsity_all, p.metric.key),
            p.metric.value(p.score),
            *(p.metric.ends(*p.interval) if p.interval else (None, None)),
            *p.metric.ends(p.lowest, p.highest),
            *(p.loss, p.seconds, p.peak_memory, p.execution, p.runs),
        )
        for p in points
    )
    write_table(header, lines, path)


def _point(group: Sequence[Result]) -> Point:
    replicates = finished_replicates(group)
    first, runs = group[0], [result for result in group if result.finished]

    def mean(value: Callable[[Result], float | None]) -> float:
        return _mean(replicate_means(replicates, value).values())

    scores = list(replicate_means(replicates, lambda result: result.score).values())
    # The share of a run in a fleet is no time of a run alone.
    costs = [result.cost for result in runs] if len({r.environment.fleet is None for r in runs}) == 1 else []
    return Point(
        task=first.task,
        name=first.name,
        settings=first.shared_settings,
        group=first.group,
        dense=first.dense,
        n=len(replicates),
        runs=len(runs),
        diverged=len(group) - len(runs),
        sparsity=mean(lambda result: result.sparsity),
        sparsity_all=mean(lambda result: result.sparsity_all),
        metric=first.metric,
        score=_mean(scores),
        interval=bounded_interval(scores, first.metric),
        lowest=min((result.score for result in runs), default=math.nan),
        highest=max((result.score for result in runs), default=math.nan),
        loss=mean(lambda result: result.measured("loss")),
        seconds=_mean(cost.seconds for cost in costs),
        peak_memory=_mean(cost.peak_memory_bytes for cost in costs),
        execution=", ".join(sorted({result.execution for result in runs})),
    )


def _mean(values: Iterable[float | None]) -> float:
    measured = [value for value in values if value is not None]
    return fmean(measured) if measured else math.nan


def _distance(point: Point, sparsity: float) -> tuple[float, float]:
    # Rounded: 0.85 and 0.95 are equally near to 0.9, whatever their last bits say.
    return round(abs(point.sparsity - sparsity), 9), -point.score
