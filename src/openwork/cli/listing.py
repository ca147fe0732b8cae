"""Commands that look at runs: list, show."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.box import SIMPLE
from rich.table import Column

from openwork.cli.characters import SafeTable
from openwork.cli.common import RUNS, Json, Runs, found_runs, out_console, print_json
from openwork.cli.report import end_unreadable, say_unreadable
from openwork.words import count, printable

if TYPE_CHECKING:
    from openwork.study.results.folders import RunFolder
    from openwork.study.results.result import Result


def list_runs(
    directories: Annotated[
        list[Path] | None, typer.Argument(metavar="DIR", help=f"Folders of runs; by default {RUNS}.")
    ] = None,
    state: Annotated[
        Literal["finished", "diverged", "failed", "training", "interrupted"] | None,
        typer.Option(help="Only runs in this state."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the runs of folders: short id, state, technique, steps, sparsity and score.

    Runs that cannot be read are named on standard error; the exit code is then 4.
    """
    from openwork.study.results.folders import folders_apart, read_folders, short_ids

    problems: list[str] = []
    places = {place.resolve(): place for place in directories or [RUNS]}.values()
    every = folders_apart([run for place in places for run in read_folders(place, problems=problems)])
    short = short_ids({run.id for run in every})  # of all, so that what is printed is enough
    found = [run for run in every if state in (None, run.state)]
    say_unreadable(problems)
    if as_json:
        print_json("list", runs=[run.to_dict() | {"short": short[run.id]} for run in found])
        end_unreadable(problems)
        return
    # Settings alone get shorter, in what the others leave: a line for each run, with whole ids.
    table = SafeTable(Column("run", no_wrap=True), "name", "state", "technique", "seed", "steps", "sparsity", "score",
                  box=SIMPLE, expand=True)  # fmt: skip
    table.add_column("settings", no_wrap=True, overflow="ellipsis", ratio=1, min_width=8)
    for run in found:
        steps = f"{run.steps:,}" if run.state == "finished" else f"{run.step:,} of {run.steps or 0:,}"
        sparsity, score, settings = _measured(run.result)
        cells = (short[run.id], ", ".join(run.names), run.state, run.technique, str(run.seed), steps, sparsity, score)
        table.add_row(*cells, settings or run.reason.partition("\n")[0], style="red" if run.state == "failed" else None)
    out_console.print(table)
    by_state = {kind: sum(run.state == kind for run in found) for kind in dict.fromkeys(run.state for run in found)}
    states = ", ".join(f"{number} {kind}" for kind, number in by_state.items())
    out_console.print(f"{count(len(found), 'run')}{': ' if states else ''}{states}", highlight=False)
    end_unreadable(problems)


def show(
    runs: Runs,
    as_json: Json = False,
) -> None:
    """Show what is known of runs: settings, state, scores, cost, machine and the zeros of each layer."""
    from openwork.study.results.folders import folders_apart, read_folder

    found = folders_apart([read_folder(path, layers=True) for path in found_runs(runs)])
    if as_json:
        print_json("show", runs=[run.to_dict() | {"run": dict(run.described), **_more(run)} for run in found])
        return
    for run in found:
        _print(run)


def _measured(result: "Result | None") -> tuple[str, str, str]:
    """Sparsity, score and settings as text."""
    if result is None or not result.finished or result.sparsity is None:
        return "-", "-", result.settings if result else ""
    return f"{result.sparsity:.2%}", result.metric.text(result.score, digits=2, space=""), result.settings


def _more(run: "RunFolder") -> dict[str, Any]:
    if run.result is None:
        return {"result": None}
    from openwork.study.results.store import read_content

    return {"result": read_content(run.path / "result.json")}


def _print(run: "RunFolder") -> None:
    from openwork.study.report.style import duration

    r, lines = run.result, [("run", run.id), ("folder", str(run.path.resolve()))]
    lines += [("name", ", ".join(run.names))] if run.names else []
    lines += [("technique", run.technique), ("seed", str(run.seed))]
    done = f"{run.step:,} of {count(run.steps, 'step')}" if run.steps else count(run.step, "step")
    lines.append(("state", f"{run.state}, {done}"))
    if run.state == "failed":
        lines.append(("reason", run.reason))
    if run.state in ("failed", "interrupted"):
        lines.append(("to go on", "the command that began it goes on" + _retry(run.state)))
    if r:
        lines += [("task", r.task), ("settings", r.settings)]
    if r and r.finished:
        sparsity, score, _ = _measured(r)
        lines += [
            (r.metric.name, f"{score}, {_data(r.judged_on)}"),
            ("sparsity", f"{sparsity} of the selected weights"),
        ]
        lines += [
            (name, f"{value:.4g}") for name, value in (r.after or {}).items() if name not in (r.metric.key, "sparsity")
        ]
    if r:
        seconds = "" if r.cost.seconds is None else duration(r.cost.seconds)
        step = "" if r.cost.step_ms is None else f", {r.cost.step_ms:.3g} ms a step"
        where = r.environment
        lines += [("training", f"{seconds}{step}; zeros are {r.execution}")]
        lines += [("machine", f"{where.processor or where.device}, torch {where.torch}, openwork {where.openwork}")]
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        if name != "reason":  # which may be of several lines
            text = printable(text)
        out_console.print(f"{name:{width}}  {text}", markup=False, highlight=False, soft_wrap=True)
    if r and r.layers:
        _print_layers(r.layers)


def _print_layers(layers: Sequence[Any]) -> None:
    table = SafeTable("weight", "shape", "weights", "not zero", "sparsity", box=SIMPLE)
    for one in layers:
        shape = "x".join(map(str, one.shape))
        table.add_row(one.name, shape, f"{one.weights:,}", f"{one.nonzero:,}", f"{one.sparsity:.2%}")
    out_console.print(table)


def _retry(state: str) -> str:
    return ", of a sweep with --retry-failed" if state == "failed" else ""


def _data(judged_on: str) -> str:
    return "on the test set" if judged_on == "test" else "on validation data"
