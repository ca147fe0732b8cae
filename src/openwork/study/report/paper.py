"""The figures of Gale, Elsen & Hooker 2019, arXiv:1902.09574, from its published rows, and what the rows say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from openwork.study.files import write_text
from openwork.study.published.comparison import sweep
from openwork.study.published.findings import findings
from openwork.study.published.reconcile import baseline
from openwork.study.published.rows import Published, checkpoints, read
from openwork.study.report.charts import hiding
from openwork.study.report.curves import scratch_chart
from openwork.study.report.html import Page, draw
from openwork.study.report.looks import encoded
from openwork.study.report.style import ChartData, left_axis, require_study_extra
from openwork.study.results.budget import budgets
from openwork.study.results.frontier import frontier

if TYPE_CHECKING:
    from openwork.study.report.style import Chart

LABELS = {
    "magnitude_pruning": "magnitude pruning",
    "l0_regularization": "L0",
    "random_pruning": "random pruning",
    "variational_dropout": "variational dropout",
    "magnitude_pruning_extended_nonuniform": "magnitude, 1.5 × steps, not uniform",
}
MODELS = {"transformer": ("Transformer, WMT14 En-De", "BLEU"), "resnet50": ("ResNet-50, ImageNet", "top-1, %")}
_EXTENDED = "magnitude_pruning_extended_nonuniform"
_BUDGET_LEVELS = (0.5, 0.8, 0.9, 0.98)


def write_published(rows: Path | None, out: Path) -> list[str]:
    """The names of the files written to ``out``: figures 1, 3, 5 and 6 (PNG, SVG), ``index.html`` and the findings.

    Args:
        rows: A folder with the release's CSV files (`published.rows.read`). Without it the figures show only the
            49 models of the release's README, and there are no findings: no ``README.md`` with the reconciliation and
            the answer at equal tuning budget, and no ``budget`` figure.
        out: Where to write; made where it does not exist.

    Raises:
        FileNotFoundError, ValueError: As for `published.rows.read`.
        OSError: If ``out`` cannot be written.
    """
    require_study_extra()
    import altair as alt

    listed = checkpoints()
    results = listed if rows is None else read(rows)
    out.mkdir(parents=True, exist_ok=True)
    page = Page("The State of Sparsity: published results")
    plain = [name for name in LABELS if name != _EXTENDED]
    longer = [r for r in listed if r.technique == _EXTENDED and rows is not None]
    five = ["magnitude_pruning", "variational_dropout", _EXTENDED]
    figures = {
        "figure-1": figure(results, "transformer", "Figure 1", plain),
        "figure-3": figure(results, "resnet50", "Figure 3", plain),
        "figure-5": figure([*results, *longer], "resnet50", "Figure 5", five),
    }
    scratch = {model: scratch_chart(model) for model in MODELS}
    body = ""
    for name, chart in figures.items():
        draw(chart.properties(width=760, height=430), out / name, page.pictures)
        body += page.figure(chart.properties(height=420), name)
    six = alt.concat(*(chart.properties(width=480, height=320) for chart in scratch.values()), spacing=40)
    draw(six.resolve_scale(color="independent", shape="independent"), out / "figure-6", page.pictures)
    body += "".join(page.figure(chart.properties(height=360), f"figure-6-{model}") for model, chart in scratch.items())
    if rows is not None:
        panels = {(m, s): budget_panel(results, m, s) for m in MODELS for s in _BUDGET_LEVELS}
        wide = alt.concat(*(p.properties(width=260) for p in panels.values()), columns=4, spacing=30)
        draw(wide, out / "budget", page.pictures)
        curves = "".join(page.figure(p, f"budget-{m}-{100 * s:.0f}") for (m, s), p in panels.items())
        body += f'<h2>What a tuning budget buys</h2><div class="panels">{curves}</div>'
        write_text(out / "README.md", findings(results))
        page.pictures.append("README.md")
    links = ", ".join(f'<a href="{name}">{name}</a>' for name in page.pictures)
    source = "the README's 49 models" if rows is None else f"{len(results):,} published runs and the README's 49 models"
    method = f"<p>From {source} of google-research/state_of_sparsity.</p><p class=quiet>Beside this page: {links}.</p>"
    choices = [LABELS[name] for name in LABELS if any(r.technique == name for r in [*results, *listed])]
    filters = {"hiddenTechniques": {"title": "Techniques", "choices": choices}}
    page.write(out / "index.html", body=body, method=method, filters=filters)
    return ["index.html", *page.pictures]


def figure(results: Sequence[Published], model: str, number: str, techniques: Sequence[str]) -> Chart:
    """Score against sparsity of one model: each technique's frontier on top, all runs behind.

    Args:
        results: Published rows.
        model: One of `MODELS`.
        number: What the paper calls the figure: "Figure 1".
        techniques: As the release calls them.
    """
    import altair as alt

    title, score = MODELS[model]
    mine = [r for r in results if r.model == model and r.technique in techniques]
    x = left_axis([r.sparsity for r in mine])
    dense = baseline(model)
    fronts = {name: frontier((r.sparsity, r.score) for r in mine if r.technique == name) for name in techniques}
    values = [
        {
            "technique": LABELS[r.technique],
            "settings": r.text,
            "sparsity": r.sparsity,
            "x": x.left(r.sparsity),
            "score": r.score,
            "frontier": (r.sparsity, r.score) in fronts[r.technique],
            "picked": r.picked,
        }
        for r in mine
    ]
    lowest = min(r.score for r in mine)
    y = alt.Y("score:Q").scale(domain=[max(0, lowest - 1), dense + 1], nice=False).axis(title=score, tickCount=6)
    domain = list(LABELS.values())
    legend = alt.Legend(orient="top", title=None, values=[LABELS[name] for name in LABELS if fronts.get(name)])
    channels = encoded(domain, legend)
    color, shape = channels["color"], channels["shape"]
    base = (
        alt.Chart(alt.InlineData(values=values))
        .transform_filter("indexof(hiddenTechniques, datum.technique) < 0")
        .encode(alt.X("x:Q").scale(x.scale()).axis(x.marks("sparsity, %", grid=False)), y, color=color)
    )
    tooltip = [
        "technique:N",
        "settings:N",
        alt.Tooltip("sparsity:Q", format=".2%"),
        alt.Tooltip("score:Q", title=score),
    ]
    front = base.transform_filter("datum.frontier")
    line = alt.Chart(alt.InlineData(values=[{"score": dense, "label": f"dense {dense:.2f}"}])).encode(y)
    layers = [
        line.mark_rule(style="dense-rule"),
        line.mark_text(style="dense-label", align="right", dx=-4, dy=-7).encode(x=alt.value("width"), text="label:N"),
        *(
            base.transform_filter(f"datum.picked == {picked}")
            .mark_point(filled=picked == "false", size=16, opacity=0.35, clip=True)
            .encode(tooltip=tooltip)
            for picked in ("false", "true")
        ),
        front.mark_line(strokeWidth=1.8),
        front.mark_point(filled=True, size=36, opacity=1).encode(shape=shape, tooltip=tooltip),
    ]
    subtitle = f"{number} of Gale et al. 2019: frontiers on top, {len(mine):,} published points behind."
    if picked := sum(r.picked for r in mine):
        subtitle += f" Hollow: {picked:,} that were picked by hand as good."
    return alt.layer(*layers).add_params(hiding()).properties(title=alt.TitleParams(title, subtitle=subtitle))


def budget_panel(results: Sequence[Published], model: str, level: float) -> Chart:
    """The expected best score of n random settings at one level; a band where settings have no row."""
    import altair as alt

    title, score = MODELS[model]
    values: ChartData = []
    for name in (name for name in LABELS if name != _EXTENDED):
        if (found := sweep(results, model, name, level)) is None:
            continue
        for n in budgets(len(found.low)):
            low, high = found.expected(n) or (0.0, 0.0)
            values.append({"technique": LABELS[name], "n": n, "low": low, "high": high})
    domain = list(LABELS.values())
    legend = alt.Legend(orient="top", title=None, columns=2, values=list(dict.fromkeys(v["technique"] for v in values)))
    channels = encoded(domain, legend)
    color, shape = channels["color"], channels["shape"]
    base = (
        alt.Chart(alt.InlineData(values=values))
        .transform_filter("indexof(hiddenTechniques, datum.technique) < 0")
        .encode(
            alt.X("n:Q")
            .scale(type="log", nice=False)
            .axis(grid=False, title="settings tried", tickCount=4, format="~s"),
            color=color,
            tooltip=["technique:N", "n:Q", alt.Tooltip("low:Q", format=".2f"), alt.Tooltip("high:Q", format=".2f")],
        )
    )
    axis = alt.Axis(title=f"expected best {score}", tickCount=5)
    layers = [
        base.mark_area(opacity=0.25).encode(alt.Y("low:Q").axis(axis), y2="high:Q"),
        base.mark_point(filled=True, size=25, opacity=1).encode(alt.Y("high:Q").axis(axis), shape=shape),
        *(base.mark_line(strokeWidth=1.5).encode(alt.Y(f"{end}:Q").axis(axis)) for end in ("low", "high")),
    ]
    subtitle = f"at {100 * level:.0f} % sparsity or more"
    titled = alt.TitleParams(title, subtitle=subtitle)
    return alt.layer(*layers).add_params(hiding()).properties(title=titled, height=220)
