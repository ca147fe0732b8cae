"""The pictures of single runs: weights on the way to their zeros, sparsity by layer, and what training still costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from openwork.study.files import read_json, write_atomically
from openwork.study.report.against import against
from openwork.study.report.html import draw
from openwork.study.report.style import ChartData, left_axis, require_study_extra
from openwork.study.report.weights import frames, panels, strip
from openwork.study.results.history import Evaluation, read_metrics, read_snapshots
from openwork.study.results.result import Result
from openwork.study.results.store import read_result

if TYPE_CHECKING:
    import altair as alt

    from openwork.study.report.style import Chart

_COLUMNS = 6  # snapshots side by side in one picture; the animation has them all
_MILLISECONDS, _LAST = 500, 2000
_FRACTIONS = {
    "density": ("expected_density", "Expected non-zero weights"),
    "flops": ("expected_flops", "Expected FLOPs of a forward pass"),
}
_ABSENT = "not in metrics.jsonl of {}, as is so for dense runs and those of older versions of openwork"


@dataclass(frozen=True)
class Curves:
    """What one run measured while it trained: its folder's name, its label, and its evaluations."""

    id: str
    label: str
    evaluations: list[Evaluation]


def write_pictures(
    folders: Sequence[Path], out: Path, *, field: str | None = None, problems: list[str] | None = None
) -> tuple[list[str], list[str]]:
    """The names of the pictures written to ``out``, and a sentence for each that could not be.

    ``weights.png`` and ``weights.gif`` (with the run's id in the name where there are several runs) show the snapshots;
    ``layers`` the sparsity by layer, a panel for each run; ``density`` the expected fraction of non-zero weights and
    ``flops`` that of the FLOPs, a line for each run; as PNG and SVG.

    Args:
        folders: Run directories.
        out: Where to write; made where it does not exist.
        field: A field of the runs' descriptions, for example ``task.width``: then the only picture is ``against``,
            which `against` draws.
        problems: Gets a sentence for each run that cannot be read, and the others are drawn. Without it the first such
            run raises.

    Raises:
        ValueError: If a folder is no run's or no run has the field.
        OSError: If ``out`` cannot be written.
    """
    require_study_extra()
    for folder in folders:
        if not (folder / "run.json").is_file():
            raise ValueError(f"{folder} is no run's directory; give one that `openwork run` made, such as runs/<id>")
    folders = _readable(folders, problems)
    out.mkdir(parents=True, exist_ok=True)
    written: list[str] = []
    missing: list[str] = []
    if field is not None:
        results = {folder: folder / "result.json" for folder in folders}
        missing = [
            f"{folder} is not finished; it is not in the picture" for folder in folders if not results[folder].exists()
        ]
        rows = [_described(folder) for folder, result in results.items() if result.exists()]
        draw(against(rows, field), out / "against", written)
        return written, missing
    for folder in folders:
        missing += _weights(folder, out, "weights" if len(folders) == 1 else f"weights-{folder.name}", written)
    labels = _labels(folders)
    runs = [Curves(f.name, label, read_metrics(f)) for f, label in zip(folders, labels, strict=True)]
    missing += _charts(runs, out, written)
    return written, missing


def _readable(folders: Sequence[Path], problems: list[str] | None) -> list[Path]:
    """The folders whose files can be read.

    Raises:
        ValueError: If one cannot, and there are no ``problems``; or if none can.
    """
    found = []
    for folder in folders:
        try:
            if (folder / "result.json").exists():
                _described(folder)
            read_metrics(folder)
            read_snapshots(folder)
        except ValueError as error:
            if problems is None:
                raise
            problems.append(str(error))
        else:
            found.append(folder)
    if not found:
        raise ValueError(f"none of these runs can be read: {'; '.join(problems or [])}")
    return found


def _described(folder: Path) -> Result:
    """The result of a run, with the description that has its defaults, too."""
    path, cure = folder / "run.json", "give another run, or run this one again"
    try:
        description = read_json(path, cure)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is not there; {cure}") from error
    return replace(read_result(folder / "result.json"), run=description)


def layer_curves(runs: Sequence[Curves]) -> list[Chart]:
    """A panel for each run: the sparsity of its layers over steps, on one axis logarithmic in what is left."""
    import altair as alt

    y = left_axis([s for run in runs for one in run.evaluations for s in one.layers.values()])
    panels = []
    for run in runs:
        values = [
            {"step": one.step, "line": name.removesuffix(".weight"), "sparsity": sparsity, "y": y.left(sparsity)}
            for one in run.evaluations
            for name, sparsity in one.layers.items()
        ]
        scaled = alt.Y("y:Q").scale(y.scale()).axis(y.marks("sparsity, %", grid=True))
        panels.append(_lines(values, scaled, run.label, columns=4))
    return panels


def fraction_curves(runs: Sequence[Curves], field: str, title: str) -> Chart:
    """A fraction of the dense model over steps, a line for each run, on a logarithmic axis.

    Args:
        runs: What they measured.
        field: A number that they measured: a fraction, 0-1.
        title: Of the chart.
    """
    import altair as alt

    points = [
        (run.label, one.step, one.measured[field]) for run in runs for one in run.evaluations if field in one.measured
    ]
    axis = left_axis([1 - fraction for _, _, fraction in points])
    values = [
        {"step": step, "line": label, "fraction": fraction, "y": axis.left(1 - fraction)}
        for label, step, fraction in points
    ]
    y = alt.Y("y:Q").scale(type="log", domain=[axis.low, axis.high], nice=False)
    label = f"datum.value <= {axis.floor} ? '0' : format(100 * datum.value, '.3~r')"
    marks = alt.Axis(title="% of dense", values=list(axis.ticks), labelExpr=label)
    subtitle = "What training computes with: under L0 the expectation over its gates, under noise all weights."
    return _lines(values, y.axis(marks), title, subtitle, columns=1)


def _lines(values: ChartData, y: alt.Y, title: str, subtitle: str = "", *, columns: int) -> Chart:
    import altair as alt

    names = list(dict.fromkeys(value["line"] for value in values))  # in the order of the model or the command line
    legend = alt.Legend(orient="top", title=None, columns=columns, labelLimit=600)
    color = alt.Color("line:N").scale(domain=names).legend(legend)
    shape = alt.Shape("line:N").scale(domain=names).legend(legend)
    x = alt.X("step:Q").axis(grid=False, title="step", tickCount=6, tickMinStep=1, format=",d")
    base = alt.Chart(alt.InlineData(values=values)).encode(x, y)
    return alt.layer(
        base.mark_line(strokeWidth=1.8).encode(color=color),
        base.mark_point(filled=True, size=45, opacity=1).encode(color=color, shape=shape),
    ).properties(title=alt.TitleParams(title, subtitle=subtitle, limit=700))


def _weights(folder: Path, out: Path, name: str, written: list[str]) -> list[str]:
    snapshots = read_snapshots(folder)
    if not snapshots:
        return [f"no {name}.png: {folder} has no snapshots; train it in another folder with --snapshots 5"]
    shown, missing = panels(snapshots)
    missing = [f"{reason} ({folder})" for reason in missing]
    if not shown:
        return missing
    steps = [snapshot.step for snapshot in snapshots]
    (title,) = _labels([folder])
    last = len(steps) - 1
    columns = sorted({round(last * number / (_COLUMNS - 1)) for number in range(_COLUMNS)}) if last else [0]
    sheet = strip(shown, {column: steps[column] for column in columns}, title)
    write_atomically(out / f"{name}.png", lambda path: sheet.save(path, "PNG", optimize=True))
    first, *others = frames(shown, steps, title)
    pauses = [_MILLISECONDS] * len(others) + [_LAST]
    write_atomically(
        out / f"{name}.gif",
        lambda path: first.save(path, "GIF", save_all=True, append_images=others, duration=pauses, loop=0),
    )
    written += [f"{name}.png", f"{name}.gif"]
    return missing


def _charts(runs: Sequence[Curves], out: Path, written: list[str]) -> list[str]:
    import altair as alt

    missing = []

    def having(name: str, field: str) -> list[Curves]:
        found = [run for run in runs if any(one.has(field) for one in run.evaluations)]
        if absent := ", ".join(run.id for run in runs if run not in found):
            missing.append(f"no {name}: {field} is {_ABSENT.format(absent)}")
        return found

    if found := having("layers", "layers"):
        panels = [panel.properties(width=420, height=280) for panel in layer_curves(found)]
        together = alt.concat(*panels, columns=2, spacing=40).resolve_scale(color="independent", shape="independent")
        draw(together, out / "layers", written)
    for name, (field, title) in _FRACTIONS.items():
        if found := having(name, field):
            draw(fraction_curves(found, field, title).properties(width=560, height=320), out / name, written)
    return missing


def _labels(folders: Sequence[Path]) -> list[str]:
    """Technique, task and seed of each run, with its settings where these do not tell the runs apart.

    An unfinished run is called by the name of its folder.
    """
    results = [read_result(path) if (path := folder / "result.json").exists() else None for folder in folders]
    short = [
        f"{r.name} on {r.task}, seed {r.seed}" if r else folder.name for r, folder in zip(results, folders, strict=True)
    ]
    return [
        f"{text}, {result.settings}" if result and short.count(text) > 1 else text
        for text, result in zip(short, results, strict=True)
    ]
