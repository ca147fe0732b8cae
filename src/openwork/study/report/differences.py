"""The chart of differences at equal sparsity: each with its interval, seed by seed, filled where it is shown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import TYPE_CHECKING

from openwork.study.evaluation.metric import Metric
from openwork.study.report.charts import hiding
from openwork.study.report.looks import encoded
from openwork.study.report.style import ChartData, require_study_extra
from openwork.study.results.paired import Difference

if TYPE_CHECKING:
    from openwork.study.report.style import Chart

_WIDEST = 3.0  # times the largest difference: how far an interval is drawn


def value(level: float, technique: str, difference: Difference, p: float | None, verdict: str) -> dict[str, object]:
    """One value of the chart, in points or in the metric's own unit."""
    points = difference.metric.points if difference.metric else float
    low, high = sorted(map(points, difference.interval() or (difference.mean, difference.mean)))
    return {
        "level": f"{100 * level:g} %",
        "technique": technique,
        "difference": points(difference.mean),
        "low": low,
        "high": high,
        "n": difference.n,
        "p": p,
        "verdict": verdict,
    }


def differences(values: ChartData, metric: Metric, *, names: Sequence[str], title: str, subtitle: list[str]) -> Chart:
    """Differences over sparsity, side by side; give the chart a width and a height.

    Args:
        values: Those of `value`, at least one.
        metric: That of the scores.
        names: Every technique of the study.
        title: Of the chart.
        subtitle: Its lines.
    """
    require_study_extra()
    import altair as alt

    means = [abs(one["difference"]) for one in values]
    most = max(means) or 1.0
    ends = [max(-_WIDEST * most, min(_WIDEST * most, one[end])) for one in values for end in ("low", "high")]
    # Linear up to the middle one of the differences, so that one technique that collapses does not flatten the others.
    unit = median(mean for mean in means if mean) if any(means) else most
    scale = alt.Scale(type="symlog", constant=unit, domain=[min(*ends, 0), max(*ends, 0)], nice=False, padding=8)
    ticks = _ticks(unit, min(*ends, 0), max(*ends, 0))
    levels = list(dict.fromkeys(one["level"] for one in values))
    present = {one["technique"] for one in values}
    legend = alt.Legend(orient="top", title=None, values=[name for name in names if name in present])
    channels = encoded(names, legend)
    label = "datum.value ? format(datum.value, '+.6~g') : '0'"
    axis = alt.Axis(
        title=metric.axis(f"difference in {metric.name}").replace(", %", ", points"), values=ticks, labelExpr=label
    )
    base = (
        alt.Chart(alt.InlineData(values=values))
        .transform_filter("indexof(hiddenTechniques, datum.technique) < 0")
        .encode(
            alt.X("level:O").sort(levels).scale(domain=levels).axis(title="sparsity", labelAngle=0, grid=False),
            alt.Y("difference:Q").scale(scale).axis(axis),
            alt.XOffset("technique:N").sort([name for name in names if name in present]),
            color=channels["color"],
        )
    )
    tooltip = [
        *(alt.Tooltip(field) for field in ("technique:N", "level:N")),
        *(alt.Tooltip(f"{field}:Q", format="+.3~g") for field in ("difference", "low", "high")),
        alt.Tooltip("n:Q", title="seeds"),
        alt.Tooltip("p:Q", format=".3~g", title="p after Holm"),
        alt.Tooltip("verdict:N"),
    ]
    marks = base.encode(shape=channels["shape"], tooltip=tooltip)
    shown = "indexof(datum.verdict, 'better') == 0 || indexof(datum.verdict, 'worse') == 0"
    zero = alt.Chart(alt.InlineData(values=[{"y": 0}])).mark_rule(style="dense-rule")
    layers = [
        zero.encode(alt.Y("y:Q").scale(scale)),
        base.mark_rule(strokeWidth=1.6, clip=True, opacity=0.7).encode(alt.Y("low:Q").scale(scale), y2="high:Q"),
        marks.mark_point(filled=False, size=70, strokeWidth=1.8, opacity=1),
        marks.transform_filter(shown).mark_point(filled=True, size=70, opacity=1),
    ]
    return alt.layer(*layers).add_params(hiding()).properties(title=alt.TitleParams(title, subtitle=subtitle))


def _ticks(unit: float, low: float, high: float) -> list[float]:
    """0 and, on either side, 1, 2, 5, 10, … times a power of ten, from about the unit on."""
    first = math.floor(math.log10(unit))
    steps: Iterable[float] = (round(m * 10.0**k, 12 - k) for k in range(first, first + 6) for m in (1, 2, 5))
    found = [step for step in steps if step >= unit / 2]
    return sorted(tick for tick in (0.0, *found, *(-step for step in found)) if low <= tick <= high)
