"""The chart of a study: the score of its task against sparsity.

It draws a data set named ``runs`` that page and pictures supply (`run_values`), and compute
means, intervals and frontiers from it with Vega-Lite's transforms, so that the page can leave out techniques and seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from openwork.study.evaluation.metric import BLEU, Metric
from openwork.study.report.style import Axis, interval_text, left_axis, require_study_extra, score_axis
from openwork.study.results.overlay import Overlay
from openwork.study.results.score import metric_of
from openwork.study.results.statistics import DENSE, Point, student_factor
from openwork.study.results.store import Row

if TYPE_CHECKING:
    import altair as alt

    from openwork.study.report.style import Chart

Values = list[dict[str, Any]]

# Names of the page's two filters, as the charts know them.
_HIDDEN = {"hiddenTechniques": "technique", "hiddenSeeds": "seed"}


def run_values(rows: Sequence[Row]) -> Values:
    """The data set ``runs`` of one task's trade-off chart: one value for each finished sparse run, its score 0-1."""
    metric = metric_of(rows)
    return [
        {
            "technique": r["name"],
            "settings": r["settings"],
            "seed": r["seed"],
            "sparsity": r["sparsity"]["selected"],
            metric.key: metric.score(r["after"][metric.key]),
        }
        for r in rows
        if r["status"] == "finished" and r["name"] != DENSE
    ]


def trade_off(
    points: Sequence[Point], rows: Sequence[Row], *, names: Sequence[str], published: Sequence[Overlay] = ()
) -> Chart:
    """The score against sparsity on one task; give it a width, a height and the data set ``runs``.

    On top the frontier of each technique, means over seeds with 95 % intervals; behind it every run; the dense
    baseline is a dashed line in its interval; hollow markers are published points. Points that no other point beats
    are ringed.

    ``points, rows: of one task; names: every technique of the study``, in whose order colours and
    markers are dealt out, so that a technique looks the same on every task. Raises ValueError if no point has a
    finished run.
    """
    require_study_extra()
    import altair as alt

    measured = [point for point in points if point.n]
    if not measured:
        raise ValueError("no point has a finished run; there is nothing to draw")
    metric = measured[0].metric
    single = run_values(rows)
    x = left_axis([p["sparsity"] for p in single] + [p.sparsity for p in published])
    scores = [metric.score(r["after"][metric.key]) for r in rows if r["status"] == "finished"] + [
        p.score for p in published
    ]
    # Two seeds that differ give an interval far beyond 0 or 1: show at most a factor 2 of it.
    least, most = (1 - max(scores)) / 2, 2 * (1 - min(scores))
    ends = [end for p in measured for end in p.interval or ()]
    y = score_axis(metric, [*scores, *(1 - min(max(1 - end, least), most) for end in ends)])
    x_channel = alt.X("x:Q").scale(x.scale()).axis(x.marks("sparsity, %", grid=False))
    y_channel = alt.Y("y:Q").scale(y.scale()).axis(y.marks(metric.axis(metric.title), grid=True))

    domain = [*names, *sorted({p.technique for p in published} - set(names))]
    drawn = {p["technique"] for p in single} | {p.technique for p in published}
    legend = alt.Legend(orient="top", title=None, values=[name for name in domain if name in drawn])
    color = alt.Color("technique:N").scale(domain=domain).legend(legend)
    shape = alt.Shape("technique:N").scale(domain=domain).legend(legend)

    def left(field: str, floor: float) -> str:
        return f"max(1 - {field}, {floor})"

    about = [alt.Tooltip("technique:N"), alt.Tooltip("settings:N")]
    score = alt.Tooltip("shown:N", title=metric.name)
    shown = f"format(100 * datum.score, '.2f') + '{metric.unit('')}'"
    sparsity = alt.Tooltip("sparsity:Q", title="sparsity", format=".2%")
    seeds = alt.Tooltip("n:Q", title="seeds")
    interval = alt.Tooltip("interval:N", title="95 % interval")

    every = (
        alt.Chart()
        .transform_calculate(x=left("datum.sparsity", x.floor), y=left("datum.score", y.floor), shown=shown)
        .mark_point(filled=True, size=16, clip=True, opacity=0.35)
        .encode(x_channel, y_channel, color=color, tooltip=[*about, alt.Tooltip("seed:Q"), sparsity, score])
    )
    means = alt.Chart().encode(x_channel, y_channel)
    front = (
        alt.layer(
            means.mark_line(strokeWidth=1.8, clip=True, opacity=0.9).encode(color=color),
            means.mark_rule(strokeWidth=1.6, clip=True, opacity=0.7).encode(
                y=alt.Y("low:Q").scale(y.scale()), y2="high:Q", color=color
            ),
            means.mark_point(style="ring", clip=True).transform_filter("datum.pareto"),
            means.mark_point(filled=True, size=80, clip=True, opacity=1).encode(
                color=color, shape=shape, tooltip=[*about, sparsity, score, interval, seeds]
            ),
        )
        .transform_aggregate(
            n="count()",
            sparsity="mean(sparsity)",
            score="mean(score)",
            deviation="stdev(score)",
            groupby=["technique", "settings"],
        )
        .transform_calculate(key="round(10000 * datum.sparsity)", rank="round(1e7 * datum.score)", shown=shown)
    )
    front = _unbeaten(front, ["technique"], keep=True)
    front = _unbeaten(front, [], keep=False)
    factors = [student_factor(n) for n in range(2, 1 + max(2, *(p.n for p in measured)))]
    half = f"datum.n > 1 ? {factors}[datum.n - 2] * datum.deviation / sqrt(datum.n) : 0"
    text = "format(100 * (datum.score - datum.half), '.1f') + '–' + format(100 * (datum.score + datum.half), '.1f')"
    front = front.transform_calculate(half=half).transform_calculate(
        x=left("datum.sparsity", x.floor),
        y=left("datum.score", y.floor),
        low=left("(datum.score - datum.half)", y.floor),
        high=left("(datum.score + datum.half)", y.floor),
        interval=f"datum.n > 1 ? {text} + '{metric.unit()}' : 'none with one seed'",
    )
    layers = [
        *_dense([p for p in measured if p.name == DENSE], y, y_channel, [score, interval, seeds]),
        *([_runs(alt.layer(every, front, data=alt.NamedData("runs")), metric)] if single else []),
    ]
    if published:
        values = [
            vars(p) | {"x": x.left(p.sparsity), "y": y.left(p.score), "shown": metric.text(p.score, digits=2, space="")}
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
    hollow = " Hollow: published points" + (", by tokenized BLEU." if metric is BLEU else ".")
    subtitle = [
        "Lines: each technique's frontier, means over seeds with 95 % intervals; faint dots: every run; ringed: no"
        f" other point is sparser and as {metric.good[0]}.",
        f"Both axes are logarithmic in what is left: non-zero weights, and {metric.missing}."
        + (hollow if published else ""),
    ]
    title = alt.TitleParams(f"{measured[0].task}: {metric.title} against sparsity", subtitle=subtitle)
    return alt.layer(*layers).add_params(*(hiding(name) for name in _HIDDEN)).properties(title=title)


def _dense(baselines: Sequence[Point], y: Axis, channel: alt.Y, tooltip: list[alt.Tooltip]) -> list[Any]:
    """The dense model: a dashed line in the band of its interval."""
    import altair as alt

    values = [
        {
            "settings": p.settings,
            "n": p.n,
            "shown": p.metric.text(p.score, digits=2, space=""),
            "interval": interval_text(p),
            "label": f"dense {p.metric.text(p.score)}",
            "y": y.left(p.score),
            "low": y.left((p.interval or (p.score,))[0]),
            "high": y.left((p.interval or (p.score,))[-1]),
        }
        for p in baselines
    ]
    if not values:
        return []
    dense = alt.Chart(alt.InlineData(values=values)).encode(channel)
    band = dense.mark_rect(style="dense-band", clip=True).encode(
        y=alt.Y("low:Q").scale(y.scale()), y2="high:Q", x=alt.value(0), x2=alt.value("width")
    )
    label = dense.mark_text(style="dense-label", align="right", dx=-4, dy=-7)
    return [
        band,
        dense.mark_rule(style="dense-rule").encode(tooltip=[alt.Tooltip("settings:N"), *tooltip]),
        label.encode(x=alt.value("width"), text="label:N"),
    ]


def _unbeaten(chart: Any, groupby: list[str], *, keep: bool) -> Any:
    """The rule of `statistics.pareto` as transforms: within each group, no point is as sparse and as good, and
    more of one.

    With `keep` beaten points go; otherwise the field ``pareto`` says which are not beaten.
    """
    # The rank is a rounded score: equal means differ in their last bits.
    # A window without ignorePeers takes in all points that are equally sparse.
    chart = chart.transform_window(
        best="max(rank)", sort=[{"field": "key", "order": "descending"}], groupby=groupby, frame=[None, 0]
    ).transform_calculate(top="datum.rank >= datum.best")
    chart = chart.transform_joinaggregate(sparsest="max(key)", groupby=[*groupby, "rank", "top"])
    unbeaten = "datum.top && datum.key == datum.sparsest"
    return chart.transform_filter(unbeaten) if keep else chart.transform_calculate(pareto=unbeaten)


def hiding(name: str = "hiddenTechniques") -> Any:
    """The parameter of a chart that the page's filter of that name sets: what is not to be drawn."""
    import altair as alt

    return alt.param(name=name, value=[])


def _runs(chart: Any, metric: Metric) -> Any:
    """The chart of the runs that are not hidden, with their scores."""
    conditions = [f"indexof({name}, datum.{field}) < 0" for name, field in _HIDDEN.items()]
    chart.transform = [
        {"filter": " && ".join(conditions)},
        {"calculate": f"datum.{metric.key}", "as": "score"},
    ]
    return chart
