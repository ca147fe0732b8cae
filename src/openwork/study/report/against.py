"""Score and sparsity of runs against a field of their descriptions, such as the width of the network."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from openwork.study.report.looks import encoded
from openwork.study.report.style import ChartData
from openwork.study.results.result import Result
from openwork.study.results.score import metric_of

if TYPE_CHECKING:
    import altair as alt


def against(results: Sequence[Result], field: str) -> alt.VConcatChart:
    """Two panels, score and sparsity, with a line for each technique: means over seeds, single runs as dots.

    Results without a number at ``field``, for example dense runs where it is one of the technique's, are drawn in no
    panel.

    Args:
        results: Those of one metric.
        field: Where the number stands in a run's description: ``task.width`` or ``technique.schedule.final``.

    Raises:
        ValueError: If no finished run has a number there.
    """
    import altair as alt

    finished = [(r, value) for r in results if r.finished and (value := _number(r.run, field)) is not None]
    if not finished:
        raise ValueError(f"no finished run has a number at {field}; give a field of run.json, such as task.width")
    metric = metric_of([result for result, _ in finished])
    measures = {"score": metric.axis(metric.title), "sparsity": "sparsity, %"}
    singles: ChartData = [
        {"x": value, "technique": result.name, "measure": measure, "y": y}
        for result, value in finished
        for measure, y in (("score", metric.points(result.score)), ("sparsity", 100 * (result.sparsity or 0.0)))
        if measure != "sparsity" or not result.dense
    ]
    groups: dict[tuple[float, str, str], list[float]] = {}
    for one in singles:
        groups.setdefault((one["x"], one["technique"], one["measure"]), []).append(one["y"])
    means = [{"x": x, "technique": t, "measure": m, "y": fmean(ys)} for (x, t, m), ys in groups.items()]
    panels = [_panel(singles, means, measure, title, field) for measure, title in measures.items()]
    tasks = sorted({result.task for result, _ in finished})
    return alt.vconcat(*panels).properties(title=alt.TitleParams(f"Against {field}", subtitle=tasks))


def _panel(
    singles: ChartData, means: ChartData, measure: str, title: str, field: str
) -> alt.LayerChart | alt.FacetChart:
    import altair as alt

    names = sorted({point["technique"] for point in means})
    legend = alt.Legend(orient="top", title=None)
    channels = encoded(names, legend)
    color, shape = channels["color"], channels["shape"]
    x = alt.X("x:Q").axis(title=field, values=sorted({point["x"] for point in means}), format="~g", grid=False)
    y = alt.Y("y:Q").axis(title=title, format=".6~g").scale(zero=False)

    def chart(points: ChartData) -> alt.Chart:
        data = alt.InlineData(values=[point for point in points if point["measure"] == measure])
        return alt.Chart(data).encode(x, y, color)

    return alt.layer(
        chart(means).mark_line(strokeWidth=1.8),
        chart(means).mark_point(filled=True, size=60, opacity=1).encode(shape),
        chart(singles).mark_point(filled=True, size=14, opacity=0.35),
    ).properties(width=460, height=220)


def _number(plain: Any, field: str) -> float | None:
    for name in field.split("."):
        plain = plain.get(name) if isinstance(plain, dict) else None
    return plain if isinstance(plain, int | float) and not isinstance(plain, bool) else None
