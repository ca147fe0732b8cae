"""The report of a study: one self-contained page, its pictures and its tables."""

import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from openwork.study.files import write_atomically, write_text
from openwork.study.report.charts import (
    count,
    interval_text,
    layer_panels,
    percent,
    range_text,
    require_study_extra,
    theme,
    trade_off,
)
from openwork.study.results.statistics import DENSE, Point, nearest, pareto, summarize, write_points
from openwork.study.results.store import Row, flat, read_results, unfinished, write_csv

_REFERENCE = 0.9  # the sparsity at which techniques are compared in words and by layer
_NEAR = 0.02  # points this close in sparsity are compared in words


def write_report(directory: Path, out: Path, *, command: str | None = None) -> Path:
    """The path of ``out/index.html``, written beside its pictures (PNG, SVG) and tables (CSV).

    ``directory``: a folder of run directories; ``command``: what produced them, to be said on the page. Raises
    ValueError where no run has finished, and OSError where ``out`` cannot be written.
    """
    require_study_extra()
    import altair as alt
    import vl_convert

    rows = read_results(directory)
    points = summarize(rows)
    if not any(point.n for point in points):
        raise ValueError(f"no finished run in {directory}; train some with `openwork run` or give another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_csv(map(flat, rows), out / "results.csv")
    write_points(points, out / "summary.csv")

    tasks = sorted({point.task for point in points if point.n})
    names = sorted({point.name for point in points} - {DENSE})
    specs: dict[str, Any] = {}
    pictures: list[str] = []
    sections = ""
    for number, task in enumerate(tasks):
        suffix = "" if len(tasks) == 1 else f"-{number + 1}"
        mine = [point for point in points if point.task == task]
        of_task = [row for row in rows if row["task"] == task]
        chart = trade_off(mine, of_task, names=names)
        panels = layer_panels(nearest(mine, _REFERENCE), of_task, names=names)
        draw(chart.properties(width=760, height=430), out / f"trade-off{suffix}", pictures)
        if panels:
            together = alt.concat(*(panel.properties(width=320) for panel in panels), columns=2, spacing=40)
            draw(together, out / f"layers{suffix}", pictures)
        figure = _figure(chart.properties(height=420), f"trade-off{suffix}", specs)
        layers = "".join(_figure(panel, f"layers{suffix}-{i}", specs) for i, panel in enumerate(panels))
        sections += _section(task, mine, figure, layers)

    template = Template(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    text = template.substitute(
        title=escape(f"Sparsity and accuracy: {', '.join(tasks)}"),
        sections=sections,
        problems=_problems(
            rows, [name for name in unfinished(directory) if (directory / name).resolve() != out.resolve()]
        ),
        method=_method(rows, command),
        pictures=", ".join(f'<a href="{name}">{name}</a>' for name in pictures),
        bundle=vl_convert.javascript_bundle().replace("</script", r"<\/script"),  # type: ignore[call-arg]  # stub lacks the default
        specs=_json(specs),
        themes=_json({"light": theme(dark=False), "dark": theme(dark=True)}),
    )
    write_text(out / "index.html", text)
    return out / "index.html"


def _section(task: str, points: Sequence[Point], figure: str, layers: str) -> str:
    """The part of the page about one task."""
    front = _table(pareto(points))
    every = _table(sorted((p for p in points if p.n), key=lambda p: (p.name != DENSE, p.name, p.sparsity)))
    text = f"""<section>
<h2>{escape(task)}</h2>
<p class="lead">{escape(_takeaway(points))}</p>
{figure}
<h3>The best found</h3>
<p class="quiet">Points that no other point beats: none is at least as sparse and more accurate, or sparser and at least
as accurate. Means over seeds.</p>
{front}
"""
    if layers:
        text += f"""<h3>Where the zeros are</h3>
<p class="quiet">Each technique at its operating point nearest to {100 * _REFERENCE:.0f} % sparsity. A dot is a layer,
the dashed line all of them together.</p>
<div class="panels">{layers}</div>
"""
    return text + f"<h3>All operating points</h3>\n{every}\n</section>\n"


def _figure(chart: Any, name: str, specs: dict[str, Any]) -> str:
    """The place of a chart on the page; its specification goes to `specs`."""
    spec: dict[str, Any] = chart.properties(width="container").to_dict()
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    del spec["config"]  # the page chooses the light or the dark one
    title = spec.pop("title")  # as text, which wraps on a phone
    specs[name] = spec
    lines = [title["subtitle"]] if isinstance(title["subtitle"], str) else title["subtitle"]
    caption = f"<b>{escape(title['text'])}</b><br>{escape(' '.join(lines))}"
    return f'<figure><figcaption>{caption}</figcaption><div class="chart" id="{name}"></div></figure>'


def draw(chart: Any, path: Path, pictures: list[str]) -> None:
    """Writes path.png and path.svg on white, for documents."""
    import vl_convert

    spec = {**chart.to_dict(), "config": {**theme(dark=False), "background": "#ffffff", "padding": 16}}
    png = vl_convert.vegalite_to_png(spec, scale=2)
    write_atomically(path.with_suffix(".png"), lambda temporary: temporary.write_bytes(png))
    write_text(path.with_suffix(".svg"), vl_convert.vegalite_to_svg(spec))
    pictures += [f"{path.name}.png", f"{path.name}.svg"]


def _takeaway(points: Sequence[Point]) -> str:
    """What the study says about one task, in a sentence: the best technique near one sparsity, and how sure that is."""
    near = nearest(points, _REFERENCE)
    if not near:
        return "No sparse run has finished."
    target = min((p.sparsity for p in near.values()), key=lambda sparsity: abs(sparsity - _REFERENCE))
    if abs(target - _REFERENCE) <= _NEAR:
        target = _REFERENCE
    # A technique whose nearest point lies elsewhere would win or lose by its sparsity.
    rivals = sorted(
        (p for p in nearest(points, target).values() if round(abs(p.sparsity - target), 9) <= _NEAR),
        key=lambda p: -p.accuracy,
    )
    best, *others = rivals
    seeds = f"{count(best.n, 'seed')}, 95 % interval {interval_text(best)}"
    verb = "is the most accurate" if others else "is the only technique measured"
    text = (
        f"Near {100 * target:.3g} % sparsity, {best.name} {verb}: {percent(best.accuracy)} at "
        f"{percent(best.sparsity)} sparsity ({seeds})"
    )
    if dense := [p.accuracy for p in points if p.name == DENSE and p.n]:
        text += f", against {percent(max(dense))} for the dense model"
    if others:
        text += f"; next is {others[0].name} with {percent(others[0].accuracy)} at {percent(others[0].sparsity)}"
        text += {None: "", True: ", and the two intervals overlap", False: ", and the two intervals do not overlap"}[
            _overlap(best, others[0])
        ]
    return text + "."


def _overlap(a: Point, b: Point) -> bool | None:
    """Whether the intervals of two points have a value in common; None where one has no interval."""
    if a.interval is None or b.interval is None:
        return None
    return a.interval[0] <= b.interval[1] and b.interval[0] <= a.interval[1]


def _table(points: Iterable[Point]) -> str:
    """One line per point, in a container that scrolls by itself."""
    header = (
        "technique",
        "sparsity",
        "of all",
        "accuracy",
        "95 % interval",
        "lowest–highest",
        "loss",
        "seeds",
        "seconds",
    )
    body = ""
    for point in points:
        numbers = (
            percent(point.sparsity, digits=2),
            percent(point.sparsity_all, digits=2),
            percent(point.accuracy, digits=2),
            interval_text(point, digits=2),
            range_text(point.lowest, point.highest, digits=2),
            f"{point.loss:.3f}",
            f"{point.n} ({point.diverged} diverged)" if point.diverged else str(point.n),
            f"{point.seconds:.1f}",
        )
        cells = "".join(f"<td>{escape(number)}</td>" for number in numbers)
        body += f'<tr><th scope="row">{escape(point.name)}</th>{cells}<td>{escape(point.settings)}</td></tr>\n'
    head = "".join(f'<th scope="col">{name}</th>' for name in (*header, "settings"))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"
    return f'<div class="scroll" role="region" aria-label="table" tabindex="0">{table}</div>'


def _problems(rows: Sequence[Row], missing: Sequence[str]) -> str:
    diverged = [row for row in rows if row["status"] == "diverged"]
    text = ""
    if diverged:
        items = "".join(
            f"<li>{escape(row['name'])}, seed {row['seed']}, at step {row['step']}: {escape(row['settings'])} "
            f"on {escape(row['task'])}</li>"
            for row in diverged
        )
        text += f"<h2>Diverged</h2><p>{count(len(diverged), 'run')} in no mean above.</p><ul>{items}</ul>"
    if missing:
        text += (
            f"<h2>Unfinished</h2><p>{count(len(missing), 'folder')} without a result: {escape(', '.join(missing))}.</p>"
        )
    return text


def _method(rows: Sequence[Row], command: str | None) -> str:
    def distinct(key: str) -> str:
        values = {str(row["environment"][key]) for row in rows if row["environment"].get(key) is not None}
        return ", ".join(sorted(values)) or "unknown"

    finished = [row for row in rows if row["status"] == "finished"]
    seeds = ", ".join(map(str, sorted({row["seed"] for row in finished})))
    steps = ", ".join(f"{step:,}" for step in sorted({row["step"] for row in finished}))
    seconds = sum(row["cost"].get("seconds") or 0 for row in rows)
    duration = f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"
    zeros = {
        "simulated": "zeros are simulated, that is stored and multiplied like any other number (dense arithmetic)",
        "executed": "zeros are executed, that is left out of the arithmetic",
    }
    how = "; ".join(zeros.get(kind, kind) for kind in sorted({row["execution"] for row in finished}))
    sentences = [
        f"{count(len(finished), 'finished run')} of {steps} steps with seeds {seeds}; {duration} of training.",
        "Accuracy and sparsity are those of the finalized model: plain modules with real zeros, on the test set.",
        "Sparsity is the fraction of zeros among the weights that the technique was given; "
        "“of all” is among all parameters.",
        "Intervals are Student's t over seeds, 95 %, of the mean.",
        f"In these runs {how}.",
        f"Hardware: {distinct('processor')} ({distinct('device')}, threads: {distinct('threads')}). "
        f"torch {distinct('torch')}, Python {distinct('python')}, openwork {distinct('openwork')}, "
        f"commit {distinct('commit')}.",
    ]
    if command:
        sentences.append(f"Command: {command}")
    return "".join(f"<p>{escape(sentence)}</p>\n" for sentence in sentences)


def _json(value: Any) -> str:
    return json.dumps(value).replace("<", r"\u003c")  # a "</script>" in a setting must not end the script
