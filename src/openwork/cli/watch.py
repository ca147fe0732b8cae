"""The command watch: runs in TensorBoard or Weights & Biases."""

import itertools
import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from openwork.cli.common import RUNS, Json, folder_option, going_on, out_console, print_json
from openwork.cli.report import end_unreadable, say_unreadable
from openwork.words import count

if TYPE_CHECKING:
    from openwork.study.results.folders import RunFolder

WRITTEN = "written.json"
"""The file that says up to which step each run has been written, and to which folder."""
FOLDERS = "folders"
"""What there has the folders of TensorBoard's runs by id, beside the steps by where they were written."""
PASSES = 10.0  # seconds between two looks
_LONGEST, _BYTES = 80, 220  # letters and bytes of a technique and seed in a folder's name, which has at most 255 bytes
_SHORT = 6  # characters of an id there
Rows = list[tuple[int, dict[str, float]]]


def watch(
    directories: Annotated[
        list[Path] | None, typer.Argument(metavar="DIR", help=f"Folders of runs; by default {RUNS}.")
    ] = None,
    to: Annotated[Literal["tensorboard", "wandb"], typer.Option(help="Where to watch.")] = "tensorboard",
    out: Annotated[Path, folder_option("Folder for what is written.")] = Path("openwork-watch"),
    project: Annotated[str, typer.Option(help="With --to wandb, the project.")] = "openwork",
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what comes, until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Write the evaluations of runs to TensorBoard or Weights & Biases, for those who watch there.

    Reads what run and sweep keep in their folders, from any number of processes, while they train or later. What was
    written is not written again. Needs pip install "openwork[tensorboard]" or "openwork[wandb]".
    """
    from openwork.study.results.folders import check_have_runs

    if follow and as_json:
        raise ValueError("--json prints what was written at the end, and --follow has none; leave one of them out")
    if not follow:  # what it follows may be about to begin
        check_have_runs(directories or [RUNS])
    problems: list[str] = []
    counts: dict[str, int] = {}
    with going_on(out):
        while True:
            known, problems = problems, []
            for run, rows in _new(directories or [RUNS], out, to, problems):
                folder = _write(run, rows, to, out, project)
                _keep(out, to, run.id, rows[-1][0], folder)
                counts[run.id] = counts.get(run.id, 0) + len(rows)
            say_unreadable([problem for problem in problems if problem not in known])  # once, however long it follows
            if not follow:
                break
            time.sleep(PASSES)
    if as_json:
        print_json("watch", to=to, out=str(out.resolve()), rows=counts)
    else:
        text = f"{count(sum(counts.values()), 'row')} of {count(len(counts), 'run')} in {out.resolve()}"
        text += f"; see them with: tensorboard --logdir {out}" if to == "tensorboard" else f", project {project}"
        out_console.print(text, markup=False, highlight=False, soft_wrap=True)
    end_unreadable(problems)


def _new(directories: list[Path], out: Path, to: str, problems: list[str]) -> "Iterator[tuple[RunFolder, Rows]]":
    """The runs with rows that were not written yet, and these; of a run in several directories each row once."""
    from openwork.study.results.folders import read_folders
    from openwork.study.results.history import read_metrics

    written = _written(out).get(to, {})
    for directory in directories:
        for run in read_folders(directory, problems=problems):
            last = written.get(run.id, 0)
            try:
                evaluations = read_metrics(run.path)
            except ValueError as error:
                problems.append(str(error))
                continue
            rows: Rows = [(e.step, numbers(e.measured, e.layers)) for e in evaluations if e.step > last]
            if run.result and run.result.after and last <= run.step:
                rows.append((run.step + 1, {f"final/{name}": value for name, value in run.result.after.items()}))
            if rows:
                written[run.id] = rows[-1][0]  # the next directory may have the same run
                yield run, rows


def numbers(measured: Mapping[str, object], layers: Mapping[str, float]) -> dict[str, float]:
    """The numbers of an evaluation by the names that they have there: those of layers are below ``layers/``."""
    found = {name: float(value) for name, value in measured.items() if isinstance(value, int | float)}
    return found | {f"layers/{name}": value for name, value in layers.items()}


def _write(run: "RunFolder", rows: Rows, to: str, out: Path, project: str) -> str:
    """Writes the rows; returns the name of their folder."""
    name = f"{run.technique}, seed {run.seed}"
    named = ", ".join([*run.names, name, run.id[:6]])
    settings = {"name": named, "id": run.id, "description": json.dumps(dict(run.described))}
    if to == "tensorboard":
        from openwork.integrations import tensorboard

        folder = _folder(run.id, name, _written(out).get(FOLDERS, {}))
        tensorboard.write_run(out / folder, rows, settings)
        return folder
    from openwork.integrations import wandb

    wandb.write_run(out / run.id, rows, settings, project=project)
    return run.id


def _folder(id: str, name: str, taken: Mapping[str, str]) -> str:
    """The name of a run's folder, which stays when the run ends and has another name than its description says.

    Args:
        id: The run's.
        name: What the folder is named after where the run has none: it says no path, whatever a variant says.
        taken: The folders by id.
    """
    if id in taken:
        return taken[id]
    plain = re.sub(r"[^\w.+-]", "_", name.replace(", ", "-").replace(" ", ""))[:_LONGEST]
    folder = f"{plain.encode()[:_BYTES].decode(errors='ignore')}-{id[:_SHORT]}"
    others = {*taken.values()}
    names = itertools.chain([folder], (f"{folder}-{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in others)


def _written(out: Path) -> dict[str, dict[str, Any]]:
    path = out / WRITTEN
    from openwork.study.files import read_json

    try:
        found: dict[str, dict[str, Any]] = read_json(path, "delete that folder, and everything is written again")
    except FileNotFoundError:
        return {}
    return found


def _keep(out: Path, to: str, id: str, step: int, folder: str) -> None:
    from openwork.study.files import write_text
    from openwork.study.locks import locked

    out.mkdir(parents=True, exist_ok=True)
    with locked(out / f".{WRITTEN}.lock", wait=True):  # another process may be watching other runs
        found = _written(out)
        found.setdefault(to, {})[id] = step
        if to == "tensorboard":
            found.setdefault(FOLDERS, {})[id] = folder
        write_text(out / WRITTEN, json.dumps(found, indent=2) + "\n")
