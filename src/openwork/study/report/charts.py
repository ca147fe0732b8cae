"""The chart of a study: the score of its task against sparsity.

It draws two data sets that page and pictures supply: ``runs`` (`run_values`) and ``front`` (`front_values`), so that
the page can leave out techniques and seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from openwork.study.evaluation.metric import BLEU, Metric
from openwork.study.published.overlay import Overlay
from openwork.study.report.looks import encoded
from openwork.study.report.style import (
    Axis,
    ChartData,
    ValueAxis,
    interval_text,
    left_axis,
    require_study_extra,
    score_axis,
)
from openwork.study.report.tables import drawn
from openwork.study.results.fronts import fronts
from openwork.study.results.result import Result
from openwork.study.results.score import metric_of
from openwork.study.results.statistics import Point

if TYPE_CHECKING:
    import altair as alt

    from openwork.study.report.style import Chart


# Names of the page's two filters, as the charts know them.
_HIDDEN = {"hiddenTechniques": "technique", "hiddenSeeds": "replicate"}


def run_values(results: Sequence[Result]) -> ChartData:
    """The data set ``runs`` of one task's trade-off chart: one value for each finished sparse run, its score drawn."""
    return [
        {
            "technique": r.name,
            "settings": r.settings,
            "seed": r.seed,
            "replicate": r.replicate,
            "sparsity": r.sparsity,
            r.metric.key: drawn(r, r.metric),
        }
        for r in results
        if r.finished and not r.dense
    ]


def front_values(results: Sequence[Result]) -> dict[tuple[int, ...], ChartData]:
    """The data set ``front`` of one task's trade-off chart, for each choice of seeds: each technique's frontier.

    ``beaten`` names the techniques that beat the point: it is ringed (``pareto``) where none of them is drawn.
    """
    values = {}
    for seeds, points in fronts(results).items():
        metric = metric_of(results)
        values[seeds] = [
            {
                "technique": p.technique,
                "settings": p.settings,
                "n": p.n,
                "sparsity": p.sparsity,
                "score": metric.drawn(p.score),
                **dict(zip(("from", "to"), map(metric.drawn, p.interval or (p.score, p.score)), strict=True)),
                "piece": p.piece,
                "interval": metric.range(*p.interval) if p.interval else "none with one seed",
                "beaten": list(p.beaten_by),
                "pareto": not p.beaten_by,
            }
            for p in points
        ]
    return values


def trade_off(
    points: Sequence[Point], results: Sequence[Result], *, names: Sequence[str], published: Sequence[Overlay] = ()
) -> Chart:
    """The score against sparsity on one task; give it a width, a height and the data sets ``runs`` and ``front``.

    On top the frontier of each technique, means over seeds with 95 % intervals; behind it every run; the dense
    baseline is a dashed line in its interval; hollow markers are published points. Points that no other point beats
    are ringed.

    Args:
        points: Those of one task.
        results: Those of that task.
        names: Every technique of the study, in whose order colours and markers are dealt out, so that a technique looks
            the same on every task.
        published: The published points of the task.

    Raises:
        ValueError: If no point has a finished run.
    """
    require_study_extra()
    import altair as alt

    measured = [point for point in points if point.n]
    if not measured:
        raise ValueError("no point has a finished run; there is nothing to draw")
    metric = measured[0].metric
    single = run_values(results)
    x = left_axis([p["sparsity"] for p in single] + [p.sparsity for p in published])
    scores = [metric.drawn(r.score) for r in results if r.finished] + [p.score for p in published]
    y = score_axis(metric, scores, [metric.drawn(end) for p in measured for end in p.interval or ()])
    x_channel = alt.X("x:Q").scale(x.scale()).axis(x.marks("sparsity, %", grid=False))
    y_channel = alt.Y("y:Q").scale(y.scale()).axis(y.marks(metric.axis(metric.title), grid=True))

    domain = [*names, *sorted({p.technique for p in published} - set(names))]
    present = {p["technique"] for p in single} | {p.technique for p in published}
    legend = alt.Legend(orient="top", title=None, values=[name for name in domain if name in present])
    channels = encoded(domain, legend)
    color, shape = channels["color"], channels["shape"]

    about = [alt.Tooltip("technique:N"), alt.Tooltip("settings:N")]
    score = alt.Tooltip("shown:N", title=metric.name.replace("\\", "\\\\"))  # Vega reads escapes in it
    shown = "format(datum.score, '.4~g')"
    if metric.full is not None:
        shown = f"format(100 * datum.score, '.2f') + '{metric.unit('')}'"
    placed = {"x": x.formula("datum.sparsity"), "y": y.formula("datum.score"), "shown": shown}
    sparsity = alt.Tooltip("sparsity:Q", title="sparsity", format=".2%")
    seeds = alt.Tooltip("n:Q", title="seeds")
    kept = any(result.replicate != result.seed for result in results)
    counts = [alt.Tooltip("replicate:Q", title="counts as seed")] if kept else []
    interval = alt.Tooltip("interval:N", title="95 % interval")

    every = (
        alt.Chart()
        .transform_calculate(**placed)
        .mark_point(filled=True, size=16, clip=True, opacity=0.35)
        .encode(x_channel, y_channel, color=color, tooltip=[*about, alt.Tooltip("seed:Q"), *counts, sparsity, score])
    )
    means = alt.Chart().encode(x_channel, y_channel)
    front = alt.layer(
        means.mark_line(strokeWidth=1.8, clip=True, opacity=0.9).encode(color=color, detail="piece:N"),
        means.mark_rule(strokeWidth=1.6, clip=True, opacity=0.7).encode(
            y=alt.Y("low:Q").scale(y.scale()), y2="high:Q", color=color
        ),
        means.mark_point(style="ring", clip=True).transform_filter("datum.pareto"),
        means.mark_point(filled=True, size=80, clip=True, opacity=1).encode(
            color=color, shape=shape, tooltip=[*about, sparsity, score, interval, seeds]
        ),
        data=alt.NamedData("front"),
    ).transform_calculate(**placed, low=y.formula("datum.from"), high=y.formula("datum.to"))
    layers = [
        *_dense([p for p in measured if p.dense], y, y_channel, [score, interval, seeds]),
        *([_runs(every, metric), front] if single else []),
    ]
    if published:
        values = [
            {"part": "published", **vars(p), "x": x.place(p.sparsity), "y": y.place(metric.drawn(p.score))}
            | {"shown": metric.text(p.score, digits=2, space="")}
            for p in published
        ]
        layers.append(
            alt.Chart(alt.InlineData(values=values))
            .transform_filter("indexof(hiddenTechniques, datum.technique) < 0")
            .mark_point(filled=False, size=110, strokeWidth=1.8, clip=True, opacity=1)
            .encode(
                x_channel,
                y_channel,
                color=color,
                shape=shape,
                tooltip=[*about, sparsity, score, alt.Tooltip("source:N")],
            )
        )
    hollow = " Hollow: published points" + (", by tokenized BLEU." if metric.key == BLEU.key else ".")
    subtitle = [
        "Lines: each technique's frontier, means over seeds with 95 % intervals; faint dots: every run; ringed: no"
        f" other point is sparser and as {metric.good[0]}.",
        "Points of which one has less than a tenth of the other's weights left are not joined.",
        f"{_left(metric)}{hollow if published else ''}",
    ]
    title = alt.TitleParams(f"{measured[0].task}: {metric.title} against sparsity", subtitle=subtitle)
    return alt.layer(*layers).add_params(*(hiding(name) for name in _HIDDEN)).properties(title=title)


def _dense(baselines: Sequence[Point], y: Axis | ValueAxis, channel: alt.Y, tooltip: list[alt.Tooltip]) -> list[Any]:
    """The dense model: a dashed line in the band of its interval."""
    import altair as alt

    values = [
        {
            "part": "dense",
            "technique": p.name,
            "settings": p.settings,
            "n": p.n,
            "sparsity": p.sparsity,
            "score": p.metric.drawn(p.score),
            "shown": p.metric.text(p.score, digits=2, space=""),
            **dict(zip(("from", "to"), map(p.metric.drawn, p.interval or (p.score, p.score)), strict=True)),
            "interval": interval_text(p),
            "label": f"dense {p.metric.text(p.score)}",
            "y": y.place(p.metric.drawn(p.score)),
            "bottom": y.place(p.metric.drawn((p.interval or (p.score,))[0])),
            "top": y.place(p.metric.drawn((p.interval or (p.score,))[-1])),
        }
        for p in baselines
    ]
    if not values:
        return []
    dense = alt.Chart(alt.InlineData(values=values)).encode(channel)
    band = dense.mark_rect(style="dense-band", clip=True).encode(
        y=alt.Y("bottom:Q").scale(y.scale()), y2="top:Q", x=alt.value(0), x2=alt.value("width")
    )
    label = dense.mark_text(style="dense-label", align="right", dx=-4, dy=-7)
    return [
        band,
        dense.mark_rule(style="dense-rule").encode(tooltip=[alt.Tooltip("settings:N"), *tooltip]),
        label.encode(x=alt.value("width"), text="label:N"),
    ]


def hiding(name: str = "hiddenTechniques") -> Any:
    """The parameter of a chart that the page's filter of that name sets: a list of what the chart leaves out."""
    import altair as alt

    return alt.param(name=name, value=[])


def _left(metric: Metric) -> str:
    if metric.full is None:
        return "The horizontal axis is logarithmic in what is left: non-zero weights."
    return f"Both axes are logarithmic in what is left: non-zero weights, and {metric.missing or 'the rest'}."


def _runs(chart: Any, metric: Metric) -> Any:
    """The chart of the runs that are not hidden, with their scores."""
    import altair as alt

    conditions = [f"indexof({name}, datum.{field}) < 0" for name, field in _HIDDEN.items()]
    first = [{"filter": " && ".join(conditions)}, {"calculate": f"datum.{metric.key}", "as": "score"}]
    chart.data, chart.transform = alt.NamedData("runs"), [*first, *chart.transform]
    return chart
