"""The charts of a study: accuracy against sparsity, and where each technique puts its zeros.

Both axes of the trade-off show what is left on a logarithmic scale: a step to the right removes the
same fraction of the non-zero weights anywhere, and a step down adds the same fraction of errors. On
linear axes everything from 90 to 99 % sparsity is one tenth of the width, and one technique that
collapses flattens the others into a line. The labels remain sparsity and accuracy.

The colours are those of Okabe & Ito, "Color Universal Design", 2008, brightened for a dark page;
each technique has its own marker besides, so that no reading depends on colour.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import fmean
from typing import TYPE_CHECKING, Any

from openwork.study.results.statistics import DENSE, Point, pareto
from openwork.study.results.store import Row

if TYPE_CHECKING:
    import altair as alt

# Six colours and seven shapes have no common divisor: 42 techniques before a pair comes again.
_LIGHT = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DARK = ("#3d8fd6", "#ee7733", "#1fb58a", "#e07fbf", "#f2c94c", "#b5e3ff")
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"


def require_study_extra() -> None:
    """Raises ImportError with the line to install, if the libraries of the charts are missing."""
    for library in ("altair", "vl_convert"):
        if find_spec(library) is None:
            raise ImportError(f'the report needs {library}: pip install "openwork[study]"')


def theme(*, dark: bool) -> dict[str, Any]:
    """The Vega-Lite config of every chart: colours, shapes and type for a dark or a light page.

    The background is transparent. The charts name their marks by style and leave colours to this
    config, so that one specification serves both pages.
    """
    ink, quiet, line = ("#e8eaed", "#a3abb5", "#30363d") if dark else ("#1b1f24", "#59626c", "#e4e7eb")
    return {
        "background": "transparent",
        "font": _FONT,
        "padding": 4,
        "view": {"stroke": None},
        "range": {"category": list(_DARK if dark else _LIGHT), "symbol": list(_SHAPES)},
        "axis": {
            "domain": False,
            "gridColor": line,
            "labelColor": quiet,
            "labelFontSize": 12,
            "labelPadding": 6,
            "ticks": False,
            "titleColor": quiet,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "titlePadding": 10,
        },
        "legend": {
            "columns": 4,
            "labelColor": ink,
            "labelFontSize": 12.5,
            "labelLimit": 220,
            "symbolOpacity": 1,
            "symbolSize": 90,
            "symbolStrokeWidth": 0,
        },
        "title": {
            "anchor": "start",
            "color": ink,
            "fontSize": 15,
            "fontWeight": 600,
            "offset": 12,
            "subtitleColor": quiet,
            "subtitleFontSize": 12,
            "subtitlePadding": 5,
        },
        "style": {
            "dense-band": {"color": ink, "opacity": 0.08},
            "dense-rule": {"color": ink, "opacity": 0.65, "strokeWidth": 1.2, "strokeDash": [5, 4]},
            "dense-label": {"color": quiet, "fontSize": 12},
            "ring": {"color": ink, "strokeWidth": 1.4, "size": 260, "filled": False},
            "total": {"color": quiet, "strokeWidth": 1.2, "strokeDash": [5, 4]},
        },
    }


def trade_off(points: Sequence[Point], rows: Sequence[Row], *, names: Sequence[str]) -> alt.LayerChart | alt.FacetChart:
    """Test accuracy against sparsity on one task; give it a width and height.

    Lines and markers are means over seeds, bars 95 % intervals, faint dots single runs; the dense
    baseline is a dashed line in its interval. Points that no other point beats are ringed.

    ``points, rows: of one task; names: every technique of the study``, in whose order colours and
    markers are dealt out, so that a technique looks the same on every task. Raises ValueError if
    the points are of more than one task or none has a finished run.
    """
    require_study_extra()
    import altair as alt

    front = set(pareto(points))
    measured = [point for point in points if point.n]
    if not measured:
        raise ValueError("no point has a finished run; there is nothing to draw")
    sparse = [point for point in measured if point.name != DENSE]
    baselines = [point for point in measured if point.name == DENSE]
    task = measured[0].task
    single = [row for row in rows if row["status"] == "finished" and row["name"] != DENSE]

    x = left_axis([p.sparsity for p in sparse] + [r["sparsity"]["selected"] for r in single])
    accuracies = [p.accuracy for p in measured] + [r["after"]["accuracy"] for r in single]
    # Two seeds that differ give an interval far beyond 0 or 1: show at most a factor 2 of it.
    least, most = (1 - max(accuracies)) / 2, 2 * (1 - min(accuracies))
    ends = [end for p in measured for end in p.interval or ()]
    y = left_axis([*accuracies, *(1 - min(max(1 - end, least), most) for end in ends)])
    x_channel = alt.X("x:Q").scale(x.scale()).axis(x.marks("sparsity, %", grid=False))
    y_channel = alt.Y("y:Q").scale(y.scale()).axis(y.marks("test accuracy, %", grid=True))

    shown = [name for name in names if any(point.name == name for point in sparse)]
    legend = alt.Legend(orient="top", title=None, values=shown)
    color = alt.Color("technique:N").scale(domain=list(names)).legend(legend)
    shape = alt.Shape("technique:N").scale(domain=list(names)).legend(legend)
    chosen = alt.selection_point(name="chosen", fields=["technique"], bind="legend")

    means = alt.Chart(
        alt.InlineData(
            values=[
                {
                    "technique": p.name,
                    "settings": p.settings,
                    "n": p.n,
                    "sparsity": p.sparsity,
                    "accuracy": p.accuracy,
                    "interval": interval_text(p),
                    "pareto": p in front,
                    "x": x.left(p.sparsity),
                    "y": y.left(p.accuracy),
                    "low": y.left((p.interval or (p.accuracy,))[0]),
                    "high": y.left((p.interval or (p.accuracy,))[-1]),
                }
                for p in sparse
            ]
        )
    ).encode(x_channel, y_channel)
    seeds = alt.Chart(
        alt.InlineData(
            values=[
                {
                    "technique": r["name"],
                    "settings": r["settings"],
                    "seed": r["seed"],
                    "sparsity": r["sparsity"]["selected"],
                    "accuracy": r["after"]["accuracy"],
                    "x": x.left(r["sparsity"]["selected"]),
                    "y": y.left(r["after"]["accuracy"]),
                }
                for r in single
            ]
        )
    ).encode(x_channel, y_channel)
    dense = alt.Chart(
        alt.InlineData(
            values=[
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
        )
    ).encode(y_channel)

    settings = alt.Tooltip("settings:N")
    accuracy = alt.Tooltip("accuracy:Q", title="accuracy", format=".2%")
    sparsity = alt.Tooltip("sparsity:Q", title="sparsity", format=".2%")
    count = alt.Tooltip("n:Q", title="seeds")
    interval = alt.Tooltip("interval:N", title="95 % interval")
    technique = alt.Tooltip("technique:N")
    mean_tooltip = [technique, settings, sparsity, accuracy, interval, count]

    def unless_chosen(opacity: float) -> alt.Opacity:
        return alt.when(chosen).then(alt.value(opacity)).otherwise(alt.value(opacity / 8))  # type: ignore[return-value]  # a condition is an Opacity to Vega-Lite

    layers = [
        dense.mark_rect(style="dense-band", clip=True).encode(
            y=alt.Y("low:Q").scale(y.scale()), y2="high:Q", x=alt.value(0), x2=alt.value("width")
        ),
        dense.mark_rule(style="dense-rule").encode(tooltip=[settings, accuracy, interval, count]),
        dense.mark_text(style="dense-label", align="right", dx=-4, dy=-7).encode(x=alt.value("width"), text="label:N"),
        seeds.mark_point(filled=True, size=16, clip=True).encode(
            color=color,
            opacity=unless_chosen(0.35),
            tooltip=[technique, settings, alt.Tooltip("seed:Q"), sparsity, accuracy],
        ),
        means.mark_line(strokeWidth=1.8, clip=True).encode(color=color, opacity=unless_chosen(0.9)),
        means.mark_rule(strokeWidth=1.6, clip=True).encode(
            y=alt.Y("low:Q").scale(y.scale()), y2="high:Q", color=color, opacity=unless_chosen(0.7)
        ),
        means.mark_point(style="ring", clip=True).transform_filter("datum.pareto").encode(opacity=unless_chosen(1.0)),
        means.mark_point(filled=True, size=80, clip=True)
        .encode(color=color, shape=shape, opacity=unless_chosen(1.0), tooltip=mean_tooltip)
        .add_params(chosen),
    ]
    subtitle = [
        "Mean over seeds with its 95 % interval; faint dots are single runs; ringed: no other point"
        " is sparser and as accurate.",
        "Both axes are logarithmic in what is left: non-zero weights, and errors.",
    ]
    title = alt.TitleParams(f"{task}: test accuracy against sparsity", subtitle=subtitle)
    return alt.layer(*layers).properties(title=title)


def layer_panels(
    points: Mapping[str, Point], rows: Sequence[Row], *, names: Sequence[str]
) -> list[alt.LayerChart | alt.FacetChart]:
    """One panel per technique with the sparsity of every layer; give each a width.

    A dot is a layer's mean over seeds; its line starts at the sparsity of all those layers
    together, so that it points right where the layer is sparser than the whole and left where it is
    denser. All panels share one logarithmic axis.

    ``points: technique -> its operating point, of one task; rows: of that task; names: every
    technique of the study``. Techniques whose runs list no layers get no panel.
    """
    require_study_extra()
    import altair as alt

    layers = {name: _mean_layers(point, rows) for name, point in points.items()}
    layers = {name: found for name, found in layers.items() if found}
    x = left_axis([layer.sparsity for found in layers.values() for layer in found])
    panels = []
    for name, found in layers.items():
        total = 1 - sum(layer.nonzero for layer in found) / sum(layer.weights for layer in found)
        data = alt.InlineData(
            values=[
                {
                    "technique": name,
                    "name": layer.name,
                    "layer": layer.name.removesuffix(".weight"),
                    "shape": " × ".join(map(str, layer.shape)),
                    "nonzero": f"{layer.nonzero:,.0f} of {layer.weights:,}",
                    "sparsity": layer.sparsity,
                    "x": x.left(layer.sparsity),
                    "total": x.left(total),
                }
                for layer in found
            ]
        )
        base = alt.Chart(data).encode(
            alt.X("x:Q").scale(x.scale()).axis(x.marks("sparsity, %", grid=True)),
            alt.Y("layer:N").sort(None).axis(title=None, labelLimit=130),
        )
        color = alt.Color("technique:N").scale(domain=list(names)).legend(None)
        shape = alt.Shape("technique:N").scale(domain=list(names)).legend(None)
        tooltip = [
            alt.Tooltip("name:N", title="layer"),
            alt.Tooltip("shape:N"),
            alt.Tooltip("nonzero:N", title="non-zero"),
            alt.Tooltip("sparsity:Q", format=".2%"),
        ]
        point = points[name]
        title = alt.TitleParams(
            f"{name} at {percent(point.sparsity)} sparsity",
            subtitle=f"{point.settings}, {count(point.n, 'seed')}",
            limit=320,
        )
        panels.append(
            alt.layer(
                base.mark_rule(style="total").encode(x="total:Q", y=alt.value(0), y2=alt.value("height")),
                base.mark_rule(strokeWidth=2).encode(x2="total:Q", color=color),
                base.mark_point(filled=True, size=70, opacity=1).encode(color=color, shape=shape, tooltip=tooltip),
            ).properties(title=title, height=20 * len(found))
        )
    return panels


def percent(fraction: float, *, digits: int = 1) -> str:
    """A fraction as text: ``0.9`` is ``90.0 %``."""
    return f"{100 * fraction:.{digits}f} %"


def interval_text(point: Point, *, digits: int = 1) -> str:
    """The 95 % interval of `point` as text, or why it has none."""
    if point.interval is None:
        return "none with one seed"
    return range_text(*point.interval, digits=digits)


def range_text(low: float, high: float, *, digits: int = 1) -> str:
    """Two fractions as text: ``95.5–96.3 %``."""
    return f"{100 * low:.{digits}f}–{100 * high:.{digits}f} %"


def count(n: int, noun: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


@dataclass(frozen=True)
class Layer:
    """One layer at one operating point: `nonzero` and `sparsity` are means over seeds."""

    name: str
    shape: tuple[int, ...]
    weights: int
    nonzero: float
    sparsity: float


def _mean_layers(point: Point, rows: Iterable[Row]) -> list[Layer]:
    """The layers of the finished runs of `point`, in the order of the model."""
    seeds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        key = (row["task"], row["name"], row["settings"])
        if key == (point.task, point.name, point.settings) and row["status"] == "finished":
            for layer in row["layers"]:
                seeds.setdefault(layer["name"], []).append(layer)
    return [
        Layer(
            name=name,
            shape=tuple(group[0]["shape"]),
            weights=group[0]["weights"],
            nonzero=fmean(layer["nonzero"] for layer in group),
            sparsity=fmean(layer["sparsity"] for layer in group),
        )
        for name, group in seeds.items()
    ]


@dataclass(frozen=True)
class Axis:
    """A reversed logarithmic axis over what is left of 1, labelled with what is gone, in %."""

    low: float
    high: float
    floor: float
    """Stands for "nothing left", which has no logarithm."""
    ticks: tuple[float, ...]

    def left(self, fraction: float) -> float:
        """Where `fraction` (of zeros, of right answers) lies: 1 - fraction, at least the floor."""
        return max(1 - fraction, self.floor)

    def scale(self) -> alt.Scale:
        """The scale of Vega-Lite."""
        import altair as alt

        return alt.Scale(type="log", domain=[self.low, self.high], reverse=True, nice=False)

    def marks(self, title: str, *, grid: bool) -> alt.Axis:
        """The axis of Vega-Lite: ticks at round percentages."""
        import altair as alt

        label = f"datum.value <= {self.floor} ? '100' : format(100 * (1 - datum.value), '.6~r')"
        return alt.Axis(title=title, grid=grid, values=list(self.ticks), labelExpr=label, labelOverlap="greedy")


def left_axis(fractions: Iterable[float]) -> Axis:
    """The axis that shows all of `fractions` (0–1), with a margin on both sides."""
    left = [1 - fraction for fraction in fractions] or [0.1, 0.5]
    positive = [value for value in left if value > 1e-9]
    smallest = min(positive, default=0.01)
    floor = smallest / 2
    bottom = smallest if len(positive) == len(left) else floor
    top = max(positive, default=smallest)
    # 6 % of the length, and at least a tenth of the value, where all values are nearly one.
    margin = max((top / bottom) ** 0.06, 1.1)
    low, high = bottom / margin, top * margin
    ticks = nice_ticks(low, high)
    if bottom == floor:
        ticks = (*(tick for tick in ticks if tick > floor), floor)
    return Axis(low, high, floor, ticks)


def nice_ticks(low: float, high: float) -> tuple[float, ...]:
    """What is left at round percentages within [low, high], sorted from much to little.

    1, 0.5, 0.2, 0.1, … where at least three of these fall inside, otherwise even steps, so that
    a narrow range is labelled too. ``0 < low < high``.
    """
    powers = range(math.ceil(math.log10(high)), math.floor(math.log10(low)) - 1, -1)
    series = [round(m * 10.0**k, 12 - k) for k in powers for m in (5, 2, 1)]
    inside = [value for value in series if low <= value <= min(high, 1)]
    if len(inside) >= 3:
        return tuple(inside)
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= rough * 0.99)
    first = math.ceil(low / step)
    last = math.floor(min(high, 1) / step + 1e-9)
    return tuple(round(i * step, 12) for i in range(last, first - 1, -1))
