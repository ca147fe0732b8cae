"""The tables of a report: their columns, and runs and operating points as their lines."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import isnan
from statistics import fmean
from typing import Any

from openwork.study.evaluation.metric import BLEU, Metric
from openwork.study.report.style import interval_text, percent
from openwork.study.results.frontier import Pairs, by_seed, difference, score_at
from openwork.study.results.score import metric_of
from openwork.study.results.statistics import Point
from openwork.study.results.store import Row

_COST = [("seconds", "hours", "hours"), ("memory", "peak MB", "MB"), ("execution", "zeros", "text")]
RUN_COLUMNS = [
    ("technique", "technique", "text"),
    ("seed", "seed", "number"),
    ("status", "status", "text"),
    ("step", "steps", "number"),
    ("sparsity", "sparsity", "percent"),
    ("all", "of all", "percent"),
    ("accuracy", "accuracy", "percent"),
    ("loss", "loss", "number"),
    *_COST,
    ("settings", "settings", "text"),
]
DIVERGED_COLUMNS = [c for c in RUN_COLUMNS if c[0] in ("technique", "seed", "step", "seconds", "settings")]


def run_columns(*, bleu: bool) -> list[tuple[str, str, str]]:
    """The columns of a table of runs, with BLEU or without."""
    if not bleu:
        return RUN_COLUMNS
    before = RUN_COLUMNS.index(("accuracy", "accuracy", "percent"))
    return [*RUN_COLUMNS[:before], (BLEU.key, BLEU.name, "hundred"), *RUN_COLUMNS[before:]]


def point_columns(metric: Metric) -> list[tuple[str, str, str]]:
    """The columns of a table of one task's operating points."""
    how = "percent" if metric.percent else "hundred"
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


def run_lines(rows: Sequence[Row], tasks: Sequence[str], *, bleu: bool) -> list[dict[str, Any]]:
    """The runs as the page knows them, with BLEU (0-1) or without; a task without a finished run has the number -1."""
    numbers = {task: number for number, task in enumerate(tasks)}
    return [
        {
            "task": numbers.get(row["task"], -1),
            "technique": row["name"],
            "settings": row["settings"],
            "seed": row["seed"],
            "status": row["status"],
            "step": row["step"],
            "sparsity": (row["sparsity"] or {}).get("selected"),
            "all": (row["sparsity"] or {}).get("all"),
            "accuracy": (row["after"] or {}).get("accuracy"),
            "loss": (row["after"] or {}).get("loss"),
            "seconds": (row["cost"] or {}).get("seconds"),
            "memory": (row["cost"] or {}).get("peak_memory_bytes"),
            "execution": row["execution"],
        }
        | ({BLEU.key: BLEU.score(row["after"][BLEU.key]) if BLEU.key in (row["after"] or {}) else None} if bleu else {})
        for row in rows
    ]


def point_lines(points: Sequence[Point], tasks: Sequence[str]) -> list[dict[str, Any]]:
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
            "score": p.score,
            "interval": interval_text(p, digits=2),
            "lowest": p.lowest,
            "highest": p.highest,
            "loss": p.loss,
            "seconds": p.seconds,
            "memory": p.peak_memory,
            "execution": p.execution,
        }
        for p in points
        if p.n
    ]


def compared_table(rows: Sequence[Row], levels: Sequence[float]) -> str:
    """Each technique beside the best one at equal sparsity, as HTML; empty where no two reach a level.

    ``rows: of one task``. Each seed's frontiers are read at the level and subtracted (`frontier.difference`).
    """
    seeds, metric = by_seed(rows), metric_of(rows)
    body = ""
    for level in levels:
        means = {name: mean for name, runs in seeds.items() if (mean := _at(runs, level)) is not None}
        if len(means) < 2:
            continue
        best = max(means, key=lambda name: means[name])
        for name in sorted(means, key=lambda name: -means[name]):
            cells = ["–", "–", "–"]
            if name != best and (found := difference(seeds[name], seeds[best], level)) is not None:
                mean, interval, n = found
                text = (
                    "none with one seed" if interval is None else " to ".join(f"{100 * end:+.2f}" for end in interval)
                )
                cells = [cell.replace("-", "−") for cell in (f"{100 * mean:+.2f}", text, str(n))]
            values = "".join(f"<td>{cell}</td>" for cell in (metric.text(means[name], digits=2), *cells))
            level_text = percent(level, digits=0)
            body += f'<tr><th scope="row">{level_text}</th><td class="text">{escape(name)}</td>{values}</tr>\n'
    if not body:
        return ""
    heads = ("sparsity", "technique", metric.name, "against the best", "95 % interval", "seeds")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    table = f'<table class="compared"><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>'
    return f'<div class="scroll" role="region" aria-label="table" tabindex="0">{table}</div>'


def _at(runs: Mapping[int, Pairs], level: float) -> float | None:
    """The mean over seeds of the frontier's score at one sparsity; None where a seed does not reach it."""
    scores = [score_at(pairs, level) for pairs in runs.values()]
    return None if None in scores else fmean(score for score in scores if score is not None)


def static_table(points: Iterable[Point], metric: Metric) -> str:
    """One line per point, in a container that scrolls by itself."""
    header = (
        "technique",
        "sparsity",
        "of all",
        metric.name,
        "95 % interval",
        "lowest–highest",
        "loss",
        "seeds",
        "hours",
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
            f"{point.loss:.3f}",
            f"{point.n} ({point.diverged} diverged)" if point.diverged else str(point.n),
            f"{point.seconds / 3600:.2g}",
            "–" if isnan(point.peak_memory) else f"{point.peak_memory / 1e6:.0f}",
            point.execution,
        )
        cells = "".join(f"<td>{escape(number)}</td>" for number in numbers)
        body += f'<tr><th scope="row">{escape(point.name)}</th>{cells}<td>{escape(point.settings)}</td></tr>\n'
    head = "".join(f'<th scope="col">{name}</th>' for name in (*header, "settings"))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"
    return f'<div class="scroll" role="region" aria-label="table" tabindex="0">{table}</div>'
