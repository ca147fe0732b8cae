"""The chart of two sweeps: techniques in their colours, the first sweep solid and filled, the second dashed, hollow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from openwork.study.evaluation.metric import Metric
from openwork.study.report.charts import front_values, hiding
from openwork.study.report.looks import encoded
from openwork.study.report.style import ChartData, left_axis, require_study_extra, score_axis
from openwork.study.results.result import Result

if TYPE_CHECKING:
    from openwork.study.report.style import Chart

_ENDS = ("from", "to")


def both(
    sides: Sequence[Sequence[Result]], metric: Metric, *, names: Sequence[str], labels: Sequence[str], task: str
) -> Chart | None:
    """The frontiers of two sweeps on one task; None where no sparse run has finished. Give it a width and a height.

    Args:
        sides: The results of each.
        metric: Theirs.
        names: Every technique of the two.
        labels: Their names.
        task: The title of the task.
    """
    require_study_extra()
    import altair as alt

    values: ChartData = []
    for label, side in zip(labels, sides, strict=True):
        fronts = front_values(side)
        points = fronts[max(fronts, key=len)] if fronts else []
        values += [{"sweep": label, **{key: p[key] for key in p if key not in ("beaten", "pareto")}} for p in points]
    if not values:
        return None
    x = left_axis([v["sparsity"] for v in values])
    y = score_axis(metric, [v["score"] for v in values], [v[end] for v in values for end in _ENDS])
    for v in values:
        bottom, top = (y.place(v[end]) for end in _ENDS)
        v |= {"x": x.place(v["sparsity"]), "y": y.place(v["score"]), "bottom": bottom, "top": top}
    present = {v["technique"] for v in values}
    channels = encoded(names, alt.Legend(orient="top", title=None, values=[name for name in names if name in present]))
    shown = list(dict.fromkeys(v["sweep"] for v in values))
    legend = alt.Legend(orient="top", title=None, symbolStrokeWidth=1.8, values=shown)
    dash = alt.StrokeDash("sweep:N").scale(domain=list(labels), range=[[1, 0], [5, 4]]).legend(legend)
    base = (
        alt.Chart(alt.InlineData(values=values))
        .transform_filter("indexof(hiddenTechniques, datum.technique) < 0")
        .encode(
            alt.X("x:Q").scale(x.scale()).axis(x.marks("sparsity, %", grid=False)),
            alt.Y("y:Q").scale(y.scale()).axis(y.marks(metric.axis(metric.title), grid=True)),
            color=channels["color"],
        )
    )
    tooltip = [
        *(alt.Tooltip(field) for field in ("sweep:N", "technique:N", "settings:N")),
        alt.Tooltip("sparsity:Q", format=".2%"),
        alt.Tooltip("score:Q", title=metric.name.replace("\\", "\\\\"), format=".4~g"),
        alt.Tooltip("interval:N", title="95 % interval"),
        alt.Tooltip("n:Q", title="seeds"),
    ]
    marked = base.encode(shape=channels["shape"], tooltip=tooltip)
    layers = [
        base.mark_line(strokeWidth=1.8, clip=True).encode(strokeDash=dash, detail=["piece:N"]),
        base.mark_rule(strokeWidth=1.4, clip=True, opacity=0.5).encode(alt.Y("bottom:Q").scale(y.scale()), y2="top:Q"),
        *(
            marked.transform_filter(f"datum.sweep == {json.dumps(label)}").mark_point(
                filled=filled, size=70, strokeWidth=1.8, clip=True, opacity=1
            )
            for label, filled in zip(labels, (True, False), strict=True)
        ),
    ]
    subtitle = [
        "Frontiers, means over seeds with 95 % intervals.",
        f"Solid, filled: {labels[0]}; dashed, hollow: {labels[1]}.",
    ]
    title = alt.TitleParams(f"{task}: {metric.title} against sparsity", subtitle=subtitle)
    return alt.layer(*layers).add_params(hiding()).properties(title=title)
