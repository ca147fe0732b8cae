"""Curves beside the trade-off: what a tuning budget buys, and training from scratch with its spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from openwork.study.evaluation.metric import Metric
from openwork.study.published.overlay import BANDS, Band, bands
from openwork.study.report.charts import hiding
from openwork.study.report.looks import encoded
from openwork.study.report.style import left_axis, percent, require_study_extra, score_axis, whole_ticks
from openwork.study.results.budget import budgets, expected_best, reaching

if TYPE_CHECKING:
    from openwork.study.report.style import Chart


def budget_curves(
    settings: Mapping[str, Sequence[tuple[float, float] | None]],
    level: float,
    metric: Metric,
    *,
    names: Sequence[str],
    worst: float = 0.0,
) -> Chart | None:
    """The expected best score of n random settings at one sparsity level or above; None if no technique reaches it.

    Args:
        settings: Technique -> (sparsity, score) of each setting, None for a diverged one.
        level: The sparsity, 0-1.
        metric: The scores' metric.
        names: Every technique of the study.
        worst: The score of a setting that stays below the level.
    """
    require_study_extra()
    import altair as alt

    curves: dict[str, list[tuple[int, float]]] = {}
    for name, pairs in settings.items():
        scores = reaching(pairs, level, worst=worst)
        if any(score > worst for score in scores):
            curves[name] = [(n, expected_best(scores, n)) for n in budgets(len(scores))]
    if not any(len(curve) > 1 for curve in curves.values()):
        return None
    y = score_axis(metric, [metric.drawn(expected) for curve in curves.values() for _, expected in curve])
    values = [
        {"technique": name, "n": n, "of": len(settings[name]), "y": y.place(metric.drawn(expected))}
        | {"best": metric.drawn(expected), "shown": metric.text(expected, digits=2, space="")}
        for name, curve in curves.items()
        for n, expected in curve
    ]
    legend = alt.Legend(orient="top", title=None, values=[name for name in names if name in curves])
    channels = encoded(names, legend)
    color, shape = channels["color"], channels["shape"]
    most = max(n for curve in curves.values() for n, _ in curve)
    base = (
        alt.Chart(alt.InlineData(values=values))
        .transform_filter("indexof(hiddenTechniques, datum.technique) < 0")
        .encode(
            alt.X("n:Q").scale(type="log", domain=[0.9, 1.15 * most], nice=False).axis(
                grid=False, title="settings tried", values=whole_ticks(most), format="~s"
            ),
            alt.Y("y:Q").scale(y.scale()).axis(y.marks(metric.axis(f"expected best {metric.name}"), grid=True)),
            color=color,
        )
    )  # fmt: skip
    tooltip = [
        alt.Tooltip("technique:N"),
        alt.Tooltip("n:Q", title="settings tried"),
        alt.Tooltip("of:Q", title="of"),
        alt.Tooltip("shown:N", title="expected best"),
    ]
    title = alt.TitleParams(f"At {percent(level, digits=0)} sparsity or more", subtitle=f"up to {most} settings")
    layers = [
        base.mark_line(strokeWidth=1.8),
        base.mark_point(filled=True, size=45, opacity=1).encode(shape=shape, tooltip=tooltip),
    ]
    return alt.layer(*layers).add_params(hiding()).properties(title=title, height=240)


def band_lines(lines: Sequence[Band], *, title: str, subtitle: list[str], score: str) -> Chart:
    """Means over sparsity in bands from the lowest to the highest run, a line for each name.

    Args:
        lines: The points of all lines.
        title: Of the chart.
        subtitle: Its lines.
        score: The title of the vertical axis.
    """
    require_study_extra()
    import altair as alt

    x = left_axis([band.sparsity for band in lines])
    values = [vars(band) | {"x": x.left(band.sparsity)} for band in lines]
    present = {band.name for band in lines}
    legend = alt.Legend(orient="top", title=None, columns=3, values=[name for name in BANDS if name in present])
    color = alt.Color("name:N").scale(domain=list(BANDS)).legend(legend)
    shape = alt.Shape("name:N").scale(domain=list(BANDS)).legend(legend)
    base = alt.Chart(alt.InlineData(values=values)).encode(
        alt.X("x:Q").scale(x.scale()).axis(x.marks("sparsity, %", grid=False)),
        alt.Y("mean:Q").scale(zero=False, nice=True).axis(title=score, format=".6~g"),
        color=color,
    )
    tooltip = [
        alt.Tooltip("name:N"),
        alt.Tooltip("sparsity:Q", format=".2%"),
        *(alt.Tooltip(f"{field}:Q", format=".4~g") for field in ("mean", "lowest", "highest")),
        alt.Tooltip("n:Q", title="runs"),
        alt.Tooltip("failures:Q"),
    ]
    layers = [
        base.mark_area(opacity=0.18).encode(alt.Y("lowest:Q").scale(zero=False), y2="highest:Q"),
        base.mark_line(strokeWidth=1.8),
        base.mark_point(filled=True, size=60, opacity=1).encode(shape=shape, tooltip=tooltip),
    ]
    return alt.layer(*layers).properties(title=alt.TitleParams(title, subtitle=subtitle))


def scratch_chart(model: str) -> Chart:
    """Figure 6 of Gale et al. 2019 for ``transformer`` or ``resnet50``."""
    name, score = {"transformer": ("Transformer", "BLEU"), "resnet50": ("ResNet-50", "top-1, %")}[model]
    return band_lines(
        bands(model),
        title=f"{name}: trained from scratch, and lottery tickets (published)",
        subtitle=[
            "Mean, lowest and highest run; scratch-b trains twice as long; failed runs (BLEU below 1) are apart.",
            "Augmented: initial values scaled for the layers' density.",
        ],
        score=score,
    )
