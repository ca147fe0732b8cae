"""The tables of a report: their columns, and their lines, which are runs and operating points."""

from collections.abc import Iterable, Sequence
from html import escape
from math import isnan

from openwork.study.evaluation.metric import ACCURACY, Metric
from openwork.study.report.style import ChartData, duration, interval_text, percent, written
from openwork.study.results.paired import Difference
from openwork.study.results.result import Result
from openwork.study.results.statistics import Point
from openwork.study.results.tournament import Tournament
from openwork.words import decimal

Columns = list[tuple[str, str, str]]
"""Field, heading and how to write it, as `Page.table` takes them."""

_COST: Columns = [("seconds", "time", "time"), ("memory", "peak MB", "MB"), ("execution", "zeros", "text")]
_REPLICATE: Columns = [("replicate", "counts as seed", "number")]


def diverged_columns(*, kept: bool) -> Columns:
    """The columns of a table of diverged runs; ``kept`` as for `run_columns`."""
    return [
        ("technique", "technique", "text"),
        ("seed", "seed", "number"),
        *(_REPLICATE if kept else []),
        ("step", "steps", "number"),
        ("seconds", "time", "time"),
        ("settings", "settings", "text"),
    ]


def run_columns(metrics: Sequence[Metric], *, apart: bool, kept: bool) -> Columns:
    """The columns of a table of runs.

    Args:
        metrics: Those that have a column.
        apart: Whether runs are measured on different data, which then have one.
        kept: Whether some keep the zeros of another run, by whose seed they count, which then has one.
    """
    columns = [
        ("technique", "technique", "text"),
        ("seed", "seed", "number"),
        *(_REPLICATE if kept else []),
        ("status", "status", "text"),
        ("step", "steps", "number"),
        ("sparsity", "sparsity", "percent"),
        ("all", "of all", "percent"),
        *([("on", "measured on", "text")] if apart else []),
        *((metric.key, metric.name, how_written(metric)) for metric in metrics),
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


def how_written(metric: Metric) -> str:
    """How `Page.table` writes the scores of a metric."""
    return "number" if metric.full is None else "percent" if metric.percent else "hundred"


def point_columns(metric: Metric, *, several: bool = False) -> Columns:
    """The columns of a table of one task's operating points; where seeds have ``several`` runs also their number."""
    how = how_written(metric)
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
        *([("runs", "runs", "number")] if several else []),
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
            "replicate": result.replicate,
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
            "runs": p.runs,
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


def compared_table(found: Tournament, metric: Metric) -> str:
    """Each technique beside the best one at equal sparsity, as HTML.

    Args:
        found: `answer.compared` of one task.
        metric: The task's.
    """
    body = ""
    for level in found.levels:
        for one in level.standings:
            cells = ["–", "–", "–", "–", "the best mean"]
            if one.technique != level.reference:
                cells = compared_cells(one.difference, metric, one.p, one.verdict)
            values = "".join(f"<td>{escape(cell)}</td>" for cell in (metric.text(one.mean, digits=2), *cells))
            head = (
                f'<th scope="row">{percent(level.level, digits=0)}</th><td class="text">{_wrapped(one.technique)}</td>'
            )
            body += f"<tr>{head}{values}</tr>\n"
    heads = ("sparsity", "technique", metric.name, "against the best", "95 % interval", "seeds", "p", "shown")
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    table = f'<table class="compared"><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>'
    return f'<div class="scroll" role="region" aria-label="table" tabindex="0">{table}</div>'


def compared_cells(difference: Difference | None, metric: Metric, p: float | None, verdict: str) -> list[str]:
    """A difference, its interval, the seeds, p after Holm's correction, and what is shown, as text."""
    if difference is None:
        return ["–", "none: no seed in common", "0", "–", verdict]
    mean, ends = written(difference, metric)
    return [mean, ends or f"none: {difference.remark}", str(difference.n), "–" if p is None else f"{p:.2g}", verdict]


def _wrapped(text: str) -> str:
    """The text of a cell as HTML that wraps: the name of a variant may be a sentence."""
    return f'<span class="name">{escape(text)}</span>'


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
            "–" if isnan(point.loss) else decimal(point.loss, 3),
            point.counted,
            "–" if isnan(point.seconds) else duration(point.seconds),
            "–" if isnan(point.peak_memory) else f"{point.peak_memory / 1e6:.0f}",
            point.execution,
        )
        cells = "".join(f"<td>{escape(number)}</td>" for number in numbers)
        body += f'<tr><th scope="row">{_wrapped(point.name)}</th>{cells}<td>{escape(point.settings)}</td></tr>\n'
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in (*header, "settings"))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"
    return f'<div class="scroll" role="region" aria-label="table" tabindex="0">{table}</div>'
