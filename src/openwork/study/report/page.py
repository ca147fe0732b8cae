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
    require_study_extra,
    theme,
    trade_off,
)
from openwork.study.results.statistics import DENSE, Point, nearest, pareto, summarize, write_points
from openwork.study.results.store import Row, read_results, unfinished, write_csv

_REFERENCE = 0.9  # the sparsity at which techniques are compared in words and by layer


def write_report(directory: Path, out: Path, *, command: str | None = None) -> Path:
    """The path of ``out/index.html``, written beside its pictures (PNG, SVG) and tables (CSV).

    ``directory``: a folder of run directories; ``command``: what produced them, to be said on the page. Raises
    ValueError where no run has finished, and OSError where ``out`` cannot be written.
    """
    require_study_extra()
    import vl_convert

    rows = read_results(directory)
    points = summarize(rows)
    if not any(point.n for point in points):
        raise ValueError(f"no finished run in {directory}; train some with `openwork run` or give another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_csv(rows, out / "results.csv")
    write_points(points, out / "summary.csv")

    tasks = sorted({point.task for point in points if point.n})
    names = sorted({point.name for point in points} - {DENSE})
    charts: dict[str, Any] = {}
    panels: dict[str, Any] = {}
    pictures: list[str] = []
    captions: list[Any] = []
    for number, task in enumerate(tasks):
        suffix = "" if len(tasks) == 1 else f"-{number + 1}"
        mine = [point for point in points if point.task == task]
        of_task = [row for row in rows if row["task"] == task]
        chart = trade_off(mine, of_task, names=names)
        charts[f"trade-off{suffix}"] = _responsive(chart, height=420)
        captions.append(chart.title)
        _draw(chart.properties(width=760, height=430), out / f"trade-off{suffix}", pictures)
        found = layer_panels(nearest(mine, _REFERENCE), of_task, names=names)
        for index, panel in enumerate(found):
            panels[f"layers{suffix}-{index}"] = _responsive(panel, height=None)
        if found:
            import altair as alt

            together = alt.concat(*(panel.properties(width=320) for panel in found), columns=2, spacing=40)
            _draw(together, out / f"layers{suffix}", pictures)

    template = Template(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    text = template.substitute(
        title=escape(f"Sparsity and accuracy: {', '.join(tasks)}"),
        takeaway=" ".join(_takeaway([p for p in points if p.task == task]) for task in tasks),
        tradeoffs="".join(_figure(name, title) for name, title in zip(charts, captions, strict=True)),
        frontier=_table([point for task in tasks for point in pareto(p for p in points if p.task == task)]),
        layers='<div class="panels">' + "".join(f'<div class="chart" id="{name}"></div>' for name in panels) + "</div>",
        summary=_table(point for point in points if point.n),
        problems=_problems(rows, unfinished(directory), out),
        method=_method(rows, command),
        pictures=", ".join(f'<a href="{name}">{name}</a>' for name in pictures),
        bundle=vl_convert.javascript_bundle().replace("</script", r"<\/script"),  # type: ignore[call-arg]  # stub lacks the default
        specs=_json(charts | panels),
        themes=_json({"light": theme(dark=False), "dark": theme(dark=True)}),
    )
    write_text(out / "index.html", text)
    return out / "index.html"


def _responsive(chart: Any, *, height: int | None) -> dict[str, Any]:
    """The chart's specification, as wide as its place on the page."""
    sized = (
        chart.properties(width="container") if height is None else chart.properties(width="container", height=height)
    )
    spec: dict[str, Any] = sized.to_dict()
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    spec.pop("config", None)  # the page chooses the light or the dark one
    if height is not None:
        del spec["title"]  # the page says it in text, which wraps on a phone
    return spec


def _figure(name: str, title: Any) -> str:
    caption = f"<h2>{escape(title.text)}</h2><figcaption>{escape(' '.join(title.subtitle))}</figcaption>"
    return f'<figure>{caption}<div class="chart" id="{name}"></div></figure>'


def _draw(chart: Any, path: Path, pictures: list[str]) -> None:
    """Writes path.png and path.svg on white, for documents."""
    import vl_convert

    spec = {**chart.to_dict(), "config": {**theme(dark=False), "background": "#ffffff", "padding": 16}}
    png = vl_convert.vegalite_to_png(spec, scale=2)
    write_atomically(path.with_suffix(".png"), lambda temporary: temporary.write_bytes(png))
    write_text(path.with_suffix(".svg"), vl_convert.vegalite_to_svg(spec))
    pictures += [f"{path.name}.png", f"{path.name}.svg"]


def _takeaway(points: Sequence[Point]) -> str:
    """What the study says about one task, in a sentence."""
    near = nearest(points, _REFERENCE)
    dense = next((point for point in points if point.name == DENSE and point.n), None)
    if not near:
        return f"{escape(points[0].task)}: no sparse run has finished."
    best = max(near.values(), key=lambda point: point.accuracy)
    others = sorted((p for p in near.values() if p is not best), key=lambda p: -p.accuracy)
    text = (
        f"<b>{escape(points[0].task)}</b>: near 90 % sparsity, {escape(best.name)} is the most accurate: "
        f"{percent(best.accuracy)} at {percent(best.sparsity)} sparsity ({count(best.n, 'seed')}, "
        f"95 % interval {interval_text(best)})"
    )
    if dense:
        text += f", against {percent(dense.accuracy)} for the dense model"
    if others and best.interval and best.interval[0] <= others[0].accuracy:
        text += "; its interval includes the next one's mean, so the order may be chance"
    if others:
        listed = ", ".join(f"{escape(p.name)} {percent(p.accuracy)} at {percent(p.sparsity)}" for p in others)
        text += f". Then {listed}"
    return text + "."


def _table(points: Iterable[Point]) -> str:
    header = ("technique", "sparsity", "of all parameters", "accuracy", "95 % interval", "lowest to highest")
    rows = [
        (
            (point.name, percent(point.sparsity), percent(point.sparsity_all), percent(point.accuracy, digits=2)),
            (interval_text(point), f"{percent(point.lowest)} to {percent(point.highest)}", f"{point.loss:.3f}"),
            (str(point.n), f"{point.seconds:.1f}", point.settings),
        )
        for point in points
    ]
    numbers = {1, 2, 3, 4, 5, 6, 7, 8}

    def cells(tag: str, values: Iterable[str]) -> str:
        return "".join(
            f'<{tag} class="number">{escape(value)}</{tag}>' if index in numbers else f"<{tag}>{escape(value)}</{tag}>"
            for index, value in enumerate(values)
        )

    head = cells("th", (*header, "loss", "seeds", "seconds", "settings"))
    body = "".join(f"<tr>{cells('td', (*a, *b, *c))}</tr>" for a, b, c in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _problems(rows: Sequence[Row], missing: Sequence[str], out: Path) -> str:
    diverged = [row for row in rows if row["status"] == "diverged"]
    missing = [name for name in missing if name != out.name]
    text = ""
    if diverged:
        items = "".join(
            f"<li>{escape(row['name'])}, seed {row['seed']}, at step {row['step']}: {escape(row['settings'])}</li>"
            for row in diverged
        )
        text += f"<h2>Diverged</h2><p>{count(len(diverged), 'run')} in no mean above.</p><ul>{items}</ul>"
    if missing:
        text += (
            f"<h2>Unfinished</h2><p>{count(len(missing), 'folder')} without a result: {escape(', '.join(missing))}.</p>"
        )
    return text


def _method(rows: Sequence[Row], command: str | None) -> str:
    def distinct(part: str, key: str) -> str:
        return ", ".join(sorted({str(row[part][key]) for row in rows if row[part].get(key) is not None})) or "unknown"

    def first(key: str) -> str:
        return distinct("environment", key)

    finished = [row for row in rows if row["status"] == "finished"]
    seeds = sorted({row["seed"] for row in rows})
    hours = sum(row["cost"]["seconds"] for row in rows) / 3600
    zeros = {
        "simulated": "zeros are simulated: stored and multiplied like any other number",
        "executed": "zeros are executed: left out of the arithmetic",
    }
    how = "; ".join(zeros.get(kind, kind) for kind in sorted({row["execution"] for row in rows}))
    sentences = [
        f"{count(len(finished), 'finished run')}, seeds {', '.join(map(str, seeds))}; {hours:.2f} hours of training.",
        "Accuracy and sparsity are those of the finalized model: plain modules with real zeros, on the test set.",
        "Sparsity is the fraction of zeros among the weights that the technique was given.",
        "Intervals are Student's t over seeds, 95 %.",
        f"In these runs {how}.",
        f"Hardware: {first('processor')} ({first('device')}, {first('threads')} threads). "
        f"torch {first('torch')}, Python {first('python')}, openwork {first('openwork')}, commit {first('commit')}.",
    ]
    if command:
        sentences.append(f"Command: {command}")
    return "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)


def _json(value: Any) -> str:
    return json.dumps(value).replace("<", r"\u003c")  # a "</script>" in a setting must not end the script
