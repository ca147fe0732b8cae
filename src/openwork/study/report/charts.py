"""The chart of a study: accuracy against sparsity.

It draws a data set named ``runs`` that page and pictures supply (`run_values`), and compute
means, intervals and frontiers from it with Vega-Lite's transforms, so that the page can leave out techniques and seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from openwork.study.report.style import Axis, interval_text, left_axis, percent, require_study_extra
from openwork.study.results.overlay import Overlay
from openwork.study.results.statistics import DENSE, Point, student_factor
from openwork.study.results.store import Row

if TYPE_CHECKING:
    import altair as alt

    from openwork.study.report.style import Chart

Values = list[dict[str, Any]]

# Names of the page's two filters, as the charts know them.
_HIDDEN = {"hiddenTechniques": "technique", "hiddenSeeds": "seed"}


def run_values(rows: Sequence[Row]) -> Values:
    """The data set ``runs`` of a trade-off chart: one value for each finished sparse run."""
    return [
        {
            "technique": r["name"],
            "settings": r["settings"],
            "seed": r["seed"],
            "sparsity": r["sparsity"]["selected"],
            "accuracy": r["after"]["accuracy"],
        }
        for r in rows
        if r["status"] == "finished" and r["name"] != DENSE
    ]


def trade_off(
    points: Sequence[Point], rows: Sequence[Row], *, names: Sequence[str], published: Sequence[Overlay] = ()
) -> Chart:
    """Test accuracy against sparsity on one task; give it a width, a height and the data set ``runs``.

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
    single = run_values(rows)
    x = left_axis([p["sparsity"] for p in single] + [p.sparsity for p in published])
    accuracies = [r["after"]["accuracy"] for r in rows if r["status"] == "finished"] + [p.accuracy for p in published]
    # Two seeds that differ give an interval far beyond 0 or 1: show at most a factor 2 of it.
    least, most = (1 - max(accuracies)) / 2, 2 * (1 - min(accuracies))
    ends = [end for p in measured for end in p.interval or ()]
    y = left_axis([*accuracies, *(1 - min(max(1 - end, least), most) for end in ends)])
    x_channel = alt.X("x:Q").scale(x.scale()).axis(x.marks("sparsity, %", grid=False))
    y_channel = alt.Y("y:Q").scale(y.scale()).axis(y.marks("test accuracy, %", grid=True))

    domain = [*names, *sorted({p.technique for p in published} - set(names))]
    drawn = {p["technique"] for p in single} | {p.technique for p in published}
    legend = alt.Legend(orient="top", title=None, values=[name for name in domain if name in drawn])
    color = alt.Color("technique:N").scale(domain=domain).legend(legend)
    shape = alt.Shape("technique:N").scale(domain=domain).legend(legend)

    def left(field: str, floor: float) -> str:
        return f"max(1 - {field}, {floor})"

    about = [alt.Tooltip("technique:N"), alt.Tooltip("settings:N")]
    accuracy = alt.Tooltip("accuracy:Q", title="accuracy", format=".2%")
    sparsity = alt.Tooltip("sparsity:Q", title="sparsity", format=".2%")
    seeds = alt.Tooltip("n:Q", title="seeds")
    interval = alt.Tooltip("interval:N", title="95 % interval")

    every = (
        alt.Chart()
        .transform_calculate(x=left("datum.sparsity", x.floor), y=left("datum.accuracy", y.floor))
        .mark_point(filled=True, size=16, clip=True, opacity=0.35)
        .encode(x_channel, y_channel, color=color, tooltip=[*about, alt.Tooltip("seed:Q"), sparsity, accuracy])
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
                color=color, shape=shape, tooltip=[*about, sparsity, accuracy, interval, seeds]
            ),
        )
        .transform_aggregate(
            n="count()",
            sparsity="mean(sparsity)",
            accuracy="mean(accuracy)",
            deviation="stdev(accuracy)",
            groupby=["technique", "settings"],
        )
        .transform_calculate(key="round(10000 * datum.sparsity)", score="round(1e7 * datum.accuracy)")
    )
    front = _unbeaten(front, ["technique"], keep=True)
    front = _unbeaten(front, [], keep=False)
    factors = [student_factor(n) for n in range(2, 1 + max(2, *(p.n for p in measured)))]
    half = f"datum.n > 1 ? {factors}[datum.n - 2] * datum.deviation / sqrt(datum.n) : 0"
    text = (
        "format(100 * (datum.accuracy - datum.half), '.1f') + '–' + format(100 * (datum.accuracy + datum.half), '.1f')"
    )
    front = front.transform_calculate(half=half).transform_calculate(
        x=left("datum.sparsity", x.floor),
        y=left("datum.accuracy", y.floor),
        low=left("(datum.accuracy - datum.half)", y.floor),
        high=left("(datum.accuracy + datum.half)", y.floor),
        interval=f"datum.n > 1 ? {text} + ' %' : 'none with one seed'",
    )
    layers = [
        *_dense([p for p in measured if p.name == DENSE], y, y_channel, [accuracy, interval, seeds]),
        *([_hidden(alt.layer(every, front, data=alt.NamedData("runs")))] if single else []),
    ]
    if published:
        values = [vars(p) | {"x": x.left(p.sparsity), "y": y.left(p.accuracy)} for p in published]
        layers.append(
            alt.Chart(alt.InlineData(values=values))
            .transform_filter("indexof(hiddenTechniques, datum.technique) < 0")
            .mark_point(filled=False, size=110, strokeWidth=1.8, clip=True, opacity=1)
            .encode(
                x_channel,
                y_channel,
                color=color,
                shape=shape,
                tooltip=[*about, sparsity, accuracy, alt.Tooltip("source:N")],
            )
        )
    subtitle = [
        "Lines: each technique's frontier, means over seeds with 95 % intervals; faint dots: every run; ringed: no"
        " other point is sparser and as accurate.",
        "Both axes are logarithmic in what is left: non-zero weights, and errors."
        + (" Hollow: published points." if published else ""),
    ]
    title = alt.TitleParams(f"{measured[0].task}: test accuracy against sparsity", subtitle=subtitle)
    return alt.layer(*layers).add_params(*(hiding(name) for name in _HIDDEN)).properties(title=title)


def _dense(baselines: Sequence[Point], y: Axis, channel: alt.Y, tooltip: list[alt.Tooltip]) -> list[Any]:
    """The dense model: a dashed line in the band of its interval."""
    import altair as alt

    values = [
        {
            "settings": p.settings,
            "n": p.n,
            "accuracy": p.accuracy,
            "interval": interval_text(p),
            "label": f"dense {percent(p.accuracy)}",
            "y": y.left(p.accuracy),
            "low": y.left((p.interval or (p.accuracy,))[0]),
            "high": y.left((p.interval or (p.accuracy,))[-1]),
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
    """The rule of `statistics.pareto` as transforms: within each group, no point is as sparse and as accurate, and
    more of one.

    With `keep` beaten points go; otherwise the field ``pareto`` says which are not beaten.
    """
    # The score is rounded: equal means differ in their last bits.
    # A window without ignorePeers takes in all points that are equally sparse.
    chart = chart.transform_window(
        best="max(score)", sort=[{"field": "key", "order": "descending"}], groupby=groupby, frame=[None, 0]
    ).transform_calculate(top="datum.score >= datum.best")
    chart = chart.transform_joinaggregate(sparsest="max(key)", groupby=[*groupby, "score", "top"])
    unbeaten = "datum.top && datum.key == datum.sparsest"
    return chart.transform_filter(unbeaten) if keep else chart.transform_calculate(pareto=unbeaten)


def hiding(name: str = "hiddenTechniques") -> Any:
    """The parameter of a chart that the page's filter of that name sets: what is not to be drawn."""
    import altair as alt

    return alt.param(name=name, value=[])


def _hidden(chart: Any) -> Any:
    conditions = [f"indexof({name}, datum.{field}) < 0" for name, field in _HIDDEN.items()]
    chart.transform = [{"filter": " && ".join(conditions)}]
    return chart
