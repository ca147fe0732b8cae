"""The style that all charts share: type, axes that show what is left, and numbers as text; `looks.py` has the colours.

The axes of a trade-off show what is left on a logarithmic scale: a step to the right removes the
same fraction of the non-zero weights anywhere, and a step down adds the same fraction of errors. On
linear axes everything from 90 to 99 % sparsity is one tenth of the width, and one technique that
collapses flattens the others into a line. The labels remain sparsity and score.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from openwork.study.evaluation.metric import Metric
from openwork.study.report.looks import DARK, SHAPES
from openwork.study.results.paired import Difference
from openwork.study.results.statistics import Point

if TYPE_CHECKING:
    import altair as alt

    Chart = alt.LayerChart | alt.FacetChart
    """The types that Altair's hints give a layered chart."""

ChartData = list[dict[str, Any]]
"""What a chart or table of the page draws: the records of its data in JSON, made of results, and not read again."""

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"


def require_study_extra() -> None:
    """Checks that the libraries of the charts are there.

    Raises:
        ImportError: If one is missing; gives the line that installs it.
    """
    for library in ("altair", "vl_convert"):
        if find_spec(library) is None:
            raise ImportError(f'the report needs {library}: pip install "openwork[study]"')


def theme(*, dark: bool) -> dict[str, Any]:
    """The Vega-Lite config of every chart: colours, shapes and type for a dark or a light page.

    The background is transparent. The charts name their marks by style and leave colours to this config, so that one
    specification serves both pages.
    """
    ink, quiet, line = ("#e8eaed", "#a3abb5", "#30363d") if dark else ("#1b1f24", "#59626c", "#e4e7eb")
    return {
        "background": "transparent",
        "font": _FONT,
        "padding": 4,
        "view": {"stroke": None},
        "range": {"category": list(DARK.values() if dark else DARK), "symbol": list(SHAPES)},
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


def percent(fraction: float, *, digits: int = 1) -> str:
    """A fraction as text: ``0.9`` is ``90.0 %``."""
    return f"{100 * fraction:.{digits}f} %"


def interval_text(point: Point, *, digits: int = 1) -> str:
    """The 95 % interval of `point` as text, or why it has none."""
    if point.interval is None:
        return "none with one seed"
    return point.metric.range(*point.interval, digits=digits)


def written(difference: Difference, metric: Metric, *, sign: int = 1) -> tuple[str, str]:
    """A difference and its 95 % interval as text, empty where it has none.

    Args:
        difference: Between two settings.
        metric: Theirs.
        sign: -1 writes theirs less ours.
    """

    def text(score: float) -> str:
        signed = metric.difference(score).replace("-", "−")
        return signed if any(digit in signed for digit in "123456789") else signed[1:]

    ends = sorted((sign * end for end in difference.interval() or ()), key=metric.value)
    return text(sign * difference.mean), " to ".join(map(text, ends))


@dataclass(frozen=True)
class Axis:
    """A reversed logarithmic axis over what is left of 1, labelled with what is gone, in %."""

    low: float
    high: float
    floor: float
    """Stands for "nothing left", which has no logarithm."""
    ticks: tuple[float, ...]

    def left(self, fraction: float) -> float:
        """Where `fraction` (of zeros, of the highest score) lies: 1 - fraction, at least the floor."""
        return max(1 - fraction, self.floor)

    place = left

    def formula(self, field: str) -> str:
        """`place` of a field, as an expression of Vega."""
        return f"max(1 - {field}, {self.floor})"

    def scale(self) -> alt.Scale:
        """The scale of Vega-Lite."""
        import altair as alt

        return alt.Scale(type="log", domain=[self.low, self.high], reverse=True, nice=False)

    def marks(self, title: str, *, grid: bool) -> alt.Axis:
        """The axis of Vega-Lite: ticks at round percentages."""
        import altair as alt

        label = f"datum.value <= {self.floor} ? '100' : format(100 * (1 - datum.value), '.6~r')"
        return alt.Axis(title=title, grid=grid, values=list(self.ticks), labelExpr=label, labelOverlap="greedy")


@dataclass(frozen=True)
class ValueAxis:
    """An axis over the values of a metric without bounds."""

    low: float
    high: float
    logarithmic: bool

    def place(self, value: float) -> float:
        """The value itself, or the end of a logarithmic axis that has no place for it."""
        return max(value, self.low) if self.logarithmic else value

    def formula(self, field: str) -> str:
        """`place` of a field, as an expression of Vega."""
        return f"max({field}, {self.low})" if self.logarithmic else f"({field})"

    def scale(self) -> alt.Scale:
        """The scale of Vega-Lite."""
        import altair as alt

        return alt.Scale(type="log" if self.logarithmic else "linear", domain=[self.low, self.high], nice=False)

    def marks(self, title: str, *, grid: bool) -> alt.Axis:
        """The axis of Vega-Lite."""
        import altair as alt

        label = "format(datum.value, '.6~g')"  # Vega's own format would write 50 as 5e+1
        return alt.Axis(title=title, grid=grid, tickCount=6, labelExpr=label, labelOverlap="greedy")


def score_axis(metric: Metric, drawn: Iterable[float], ends: Iterable[float] = ()) -> Axis | ValueAxis:
    """The axis that shows all scores and, of the ends of intervals, those that fit.

    Two seeds that differ give an interval far beyond all scores: at most a factor 2 of what is left is shown of it.

    Args:
        metric: The scores' metric.
        drawn: Scores as `Metric.drawn` has them.
        ends: Ends of intervals, in the same form.
    """
    drawn, ends = list(drawn), list(ends)
    if metric.full is None:
        return _value_axis(drawn, ends)
    least, most = ((1 - max(drawn)) / 2, 2 * (1 - min(drawn))) if drawn else (0.0, 1.0)
    # A tenth of what a BLEU of 27 lacks of 100 is 7: more than lies between the techniques.
    shown = [*drawn, *(1 - min(max(1 - end, least), most) for end in ends)]
    return left_axis(shown, margin=1.1 if metric.percent else 1.02)


def _value_axis(values: Sequence[float], ends: Iterable[float]) -> ValueAxis:
    """Logarithmic where all values are positive and one is ten times another: else one failure flattens the others."""
    low, high = min(values), max(values)
    if low > 0 and high >= 10 * low:
        shown = [low, high, *(min(max(end, low / 2), 2 * high) for end in ends)]
        return ValueAxis(min(shown) / 1.1, max(shown) * 1.1, logarithmic=True)
    length = high - low or abs(high) or 1.0
    shown = [low, high, *(min(max(end, low - length / 2), high + length / 2) for end in ends)]
    margin = 0.05 * (max(shown) - min(shown)) or 0.05 * length
    return ValueAxis(min(shown) - margin, max(shown) + margin, logarithmic=False)


def left_axis(fractions: Iterable[float], *, margin: float = 1.1) -> Axis:
    """The axis that shows all of `fractions`.

    Args:
        fractions: Of what is gone, 0-1.
        margin: The least factor between the outer values and the ends of the axis.
    """
    left = [1 - fraction for fraction in fractions] or [0.1, 0.5]
    positive = [value for value in left if value > 1e-9]
    smallest = min(positive, default=0.01)
    floor = smallest / 2
    bottom = smallest if len(positive) == len(left) else floor
    top = max(positive, default=smallest)
    # 6 % of the length, and at least a tenth of the value, where all values are nearly one.
    margin = max((top / bottom) ** 0.06, margin)
    low, high = bottom / margin, top * margin
    ticks = nice_ticks(low, high)
    if bottom == floor:
        ticks = (*(tick for tick in ticks if tick > floor), floor)
    return Axis(low, high, floor, ticks)


def whole_ticks(most: int) -> list[int]:
    """1, 2, 5, 10, 20, ... up to ``most``, for a logarithmic axis of things that are counted."""
    return [m * 10**power for power in range(len(str(most))) for m in (1, 2, 5) if m * 10**power <= most]


def duration(seconds: float) -> str:
    """A time as it is read: ``45 s``, ``12 min``, ``3 h 12 min``."""
    if seconds < 59.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min"


def nice_ticks(low: float, high: float) -> tuple[float, ...]:
    """What is left at round percentages within [low, high], sorted from much to little.

    1, 0.5, 0.2, 0.1, … where at least three of these fall inside, otherwise even steps, so that a narrow range is
    labelled too. It needs ``0 < low < high``.
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
