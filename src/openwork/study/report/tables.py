"""The tables of a report: their columns, and their lines, which are runs and operating points."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import isnan
from statistics import fmean

from openwork.study.evaluation.metric import ACCURACY, Metric
from openwork.study.report.style import ChartData, duration, interval_text, percent
from openwork.study.results.frontier import Pairs, by_seed, difference, score_at
from openwork.study.results.result import Result
from openwork.study.results.score import metric_of
from openwork.study.results.statistics import Point

Columns = list[tuple[str, str, str]]
"""Field, heading and how to write it, as `Page.table` takes them."""

_COST: Columns = [("seconds", "time", "time"), ("memory", "peak MB", "MB"), ("execution", "zeros", "text")]
DIVERGED_COLUMNS: Columns = [
    ("technique", "technique", "text"),
    ("seed", "seed", "number"),
    ("step", "steps", "number"),
    ("seconds", "time", "time"),
    ("settings", "settings", "text"),
]


def run_columns(metrics: Sequence[Metric], *, apart: bool) -> Columns:
    """The columns of a table of runs, with those of `metrics`; where runs are ``apart`` also on which data they are."""
    columns = [
        ("technique", "technique", "text"),
        ("seed", "seed", "number"),
        ("status", "status", "text"),
        ("step", "steps", "number"),
        ("sparsity", "sparsity", "percent"),
        ("all", "of all", "percent"),
        *([("on", "measured on", "text")] if apart else []),
        *((metric.key, metric.name, _how(metric)) for metric in metrics),
        ("loss", "loss", "number"),
        *_COST,
        ("settings", "settings", "text"),
    ]
    return [column for number, column in enumerate(columns) if column[0] not in {c[0] for c in columns[:number]}]


def run_metrics(results: Sequence[Result]) -> list[Metric]:
    """The metrics by which the runs are judged, and the accuracy beside them where it was measured.

    Of one metric on different data it is the one with the shortest name.
    """
    each = {result.metric for result in results if result.finished}
    judged = sorted(each, key=lambda metric: (-len(metric.name), metric.name))
    found = sorted({metric.key: metric for metric in judged}.values(), key=_by_name, reverse=True)
    measured = any(result.measured(ACCURACY.key) is not None for result in results)
    return [*found, *([ACCURACY] if measured and not any(metric.key == ACCURACY.key for metric in found) else [])]


def _by_name(metric: Metric) -> str:
    return metric.name.lower()


def _how(metric: Metric) -> str:
    return "number" if metric.full is None else "percent" if metric.percent else "hundred"


def point_columns(metric: Metric) -> Columns:
    """The columns of a table of one task's operating points."""
    how = _how(metric)
    return [
        ("technique", "technique", "text"),
        ("sparsity", "sparsity", "percent"),
        ("all", "of all", "percent"),
        ("score", metric.name, how),
        ("interval", "95 % interval", "text"),
        ("lowest", "lowest", how),
        ("highest", "highest", how),
        ("loss", "loss", "number"),
        ("n", "seeds", "number"),
        ("diverged", "diverged", "number"),
        *_COST,
        ("settings", "settings", "text"),
    ]


def run_lines(results: Sequence[Result], tasks: Sequence[str], metrics: Sequence[Metric]) -> ChartData:
    """The runs as the page knows them, with `metrics` as charts draw them.

    Args:
        results: The runs.
        tasks: Tasks with a finished run; others have the number -1.
        metrics: Those to list.
    """
    numbers = {task: number for number, task in enumerate(tasks)}
    return [
        {
            "task": numbers.get(result.task, -1),
            "technique": result.name,
            "dense": result.dense,
            "settings": result.settings,
            "seed": result.seed,
            "status": result.status,
            "step": result.step,
            "sparsity": result.sparsity,
            "all": result.sparsity_all,
            "on": result.judged_on,
            "loss": result.measured("loss"),
            **{metric.key: drawn(result, metric) for metric in metrics},
            "seconds": result.cost.seconds,
            "memory": result.cost.peak_memory_bytes,
            "execution": result.execution,
        }
        for result in results
    ]


def drawn(result: Result, metric: Metric) -> float | None:
    """A metric of a result as charts draw it; None where it was not measured."""
    value = result.measured(metric.key)
    return None if value is None else metric.drawn(metric.score(value))


def point_lines(points: Sequence[Point], tasks: Sequence[str]) -> ChartData:
    """The operating points with a finished run as the page knows them."""
    numbers = {task: number for number, task in enumerate(tasks)}
    return [
        {
            "task": numbers[p.task],
            "technique": p.name,
            "settings": p.settings,
            "n": p.n,
            "diverged": p.diverged,
            "sparsity": p.sparsity,
            "all": p.sparsity_all,
            "score": p.metric.drawn(p.score),
            "interval": interval_text(p, digits=2),
            **dict(zip(("lowest", "highest"), sorted(map(p.metric.drawn, (p.lowest, p.highest))), strict=True)),
            "loss": p.loss,
            "seconds": p.seconds,
            "memory": p.peak_memory,
            "execution": p.execution,
        }
        for p in points
        if p.n
    ]


def compared_table(results: Sequence[Result], levels: Sequence[float]) -> str:
    """Each technique beside the best one at equal sparsity, as HTML; empty where no two reach a level.

    Each seed's frontiers are read at the level and subtracted (`frontier.difference`).

    Args:
        results: Those of one task.
        levels: Sparsities, 0-1.
    """
    seeds, metric = by_seed(results), metric_of(results)
    body = ""
    for level in levels:
        means = {name: mean for name, runs in seeds.items() if (mean := _at(runs, level)) is not None}
        if len(means) < 2:
            continue
        best = max(means, key=lambda name: means[name])
        for name in sorted(means, key=lambda name: -means[name]):
            cells = ["–", "–", "–"]
            if name != best and (found := difference(seeds[name], seeds[best], level, metric=metric)) is not None:
                ends = sorted(found.interval() or (), key=metric.value)
                text = " to ".join(map(metric.difference, ends)) or f"none: {found.remark}"
                cells = [cell.replace("-", "−") for cell in (metric.difference(found.mean), text, str(found.n))]
            values = "".join(f"<td>{cell}</td>" for cell in (metric.text(means[name], digits=2), *cells))
            level_text = percent(level, digits=0)
            body += f'<tr><th scope="row">{level_text}</th><td class="text">{escape(name)}</td>{values}</tr>\n'
    if not body:
        return ""
    heads = ("sparsity", "technique", escape(metric.name), "against the best", "95 % interval", "seeds")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    table = f'<table class="compared"><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>'
    return f'<div class="scroll" role="region" aria-label="table" tabindex="0">{table}</div>'


def _at(runs: Mapping[int, Pairs], level: float) -> float | None:
    """The mean over seeds of the frontier's score at one sparsity; None where a seed does not reach it."""
    scores = [score_at(pairs, level) for pairs in runs.values()]
    return None if None in scores else fmean(score for score in scores if score is not None)


def static_table(points: Iterable[Point], metric: Metric) -> str:
    """One line per point, as HTML, in a container that scrolls separately from the page."""
    header = (
        "technique",
        "sparsity",
        "of all",
        metric.name,
        "95 % interval",
        "lowest–highest",
        "loss",
        "seeds",
        "time",
        "peak MB",
        "zeros",
    )
    body = ""
    for point in points:
        numbers = (
            percent(point.sparsity, digits=2),
            percent(point.sparsity_all, digits=2),
            metric.text(point.score, digits=2),
            interval_text(point, digits=2),
            metric.range(point.lowest, point.highest, digits=2),
            "–" if isnan(point.loss) else f"{point.loss:.3f}",
            f"{point.n} ({point.diverged} diverged)" if point.diverged else str(point.n),
            "–" if isnan(point.seconds) else duration(point.seconds),
            "–" if isnan(point.peak_memory) else f"{point.peak_memory / 1e6:.0f}",
            point.execution,
        )
        cells = "".join(f"<td>{escape(number)}</td>" for number in numbers)
        body += f'<tr><th scope="row">{escape(point.name)}</th>{cells}<td>{escape(point.settings)}</td></tr>\n'
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in (*header, "settings"))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"
    return f'<div class="scroll" role="region" aria-label="table" tabindex="0">{table}</div>'
