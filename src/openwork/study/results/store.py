"""The rows of a study: one `result.json` per finished run, read, checked and written as one CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from openwork.study.files import write_text

FORMAT = 1

Row = dict[str, Any]

_TEXT = ("id", "status", "name", "settings", "task", "execution")
_KEYS = (*_TEXT, "step", "seed", "before", "after", "sparsity", "layers", "cost", "environment")
_MEASURED = ("accuracy", "loss", "sparsity")
_ENVIRONMENT = ("device", "processor", "threads", "torch", "python", "openwork", "commit")

COLUMNS = (
    "task",
    "name",
    "settings",
    "seed",
    "status",
    "step",
    "sparsity_selected",
    "sparsity_all",
    *(f"before_{key}" for key in _MEASURED),
    *(f"after_{key}" for key in _MEASURED),
    "seconds",
    "step_ms",
    "peak_memory_bytes",
    "execution",
    *_ENVIRONMENT,
    "id",
)


def read_results(directory: Path) -> list[Row]:
    """Every finished or diverged run under `directory`, sorted by name, settings and seed.

    A run is a folder `directory/<run id>/` that holds a `result.json` of format 1; folders without
    one are interrupted or foreign and are left to `unfinished`.

    Raises FileNotFoundError if there is no such directory, and ValueError, naming the file and the
    cure, if a `result.json` cannot be read or two of them are the same run.
    """
    rows: list[Row] = []
    origin: dict[str, Path] = {}
    for folder in _folders(directory):
        path = folder / "result.json"
        if not path.exists():
            continue
        row = read_result(path)
        # A run copied under a second name would count as one more seed and narrow the interval.
        if row["id"] in origin:
            raise ValueError(f"{path} is the same run as {origin[row['id']]}; delete one of the two folders")
        origin[row["id"]] = path
        rows.append(row)
    return sorted(rows, key=lambda r: (r["name"], r["settings"], r["seed"], r["task"], r["id"]))


def unfinished(directory: Path) -> list[str]:
    """The names of the folders under `directory` that hold no `result.json`, sorted.

    Raises FileNotFoundError if there is no such directory.
    """
    return [f.name for f in _folders(directory) if not (f / "result.json").exists()]


def write_csv(rows: Iterable[Row], path: Path) -> None:
    """Writes one line per run to `path`, replacing it in one step.

    The columns, with an empty cell where a diverged run measured nothing:

    * ``task, name, settings, seed, status, step``: what ran, and for how many optimizer steps;
    * ``sparsity_selected, sparsity_all``: fraction of zeros, 0–1, of the finished model, among the
      weights the technique was given and among all parameters;
    * ``before_accuracy, before_loss, before_sparsity`` and the same with ``after_``: evaluated
      before and after the model was made plain again; accuracy and sparsity are fractions 0–1;
    * ``seconds, step_ms, peak_memory_bytes``: what training cost;
    * ``execution``: ``simulated`` if the zeros took part in dense arithmetic;
    * ``device, processor, threads, torch, python, openwork, commit``: where it ran;
    * ``id``: the folder of the run.
    """
    write_table(COLUMNS, ([_cell(row, column) for column in COLUMNS] for row in rows), path)


def write_table(header: Sequence[str], lines: Iterable[Sequence[object]], path: Path) -> None:
    """Writes a CSV to `path`, replacing it in one step. None and NaN become empty cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if _is_missing(value) else value for value in line] for line in lines)
    # As bytes: the encoding of text would be that of the machine.
    write_text(path, text.getvalue())


def _folders(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise FileNotFoundError(f"no study directory {directory}; is the path right?")
    return sorted(path for path in directory.iterdir() if path.is_dir())


def read_result(path: Path) -> Row:
    """One checked `result.json`. Raises ValueError, naming the file and the cure, where it is damaged or foreign."""
    cure = "delete that folder and run the study again: only this run is repeated"
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError: broken JSON and broken UTF-8 alike
        raise ValueError(f"{path} cannot be read ({error}); {cure}") from error
    if isinstance(row, dict) and row.get("format", FORMAT) != FORMAT:
        raise ValueError(
            f"{path} has format {row['format']!r}, this openwork reads {FORMAT}; use the openwork that wrote it"
        )
    if problem := _problem(row):
        raise ValueError(f"{path} is not the result of a run: {problem}; {cure}")
    assert isinstance(row, dict)
    return row


def _problem(row: object) -> str | None:
    """What makes `row` unusable, or None."""
    if not isinstance(row, dict):
        return f"expected an object, got {type(row).__name__}"
    if missing := [key for key in ("format", *_KEYS) if key not in row]:
        return f"no {', '.join(missing)}"
    if wrong := [key for key in _TEXT if not isinstance(row[key], str)]:
        return f"{wrong[0]} is not text"
    if not isinstance(row["seed"], int):
        return "seed is not an integer"
    if row["status"] == "diverged":
        return None
    if row["status"] != "finished":
        return f"status is {row['status']!r}, neither 'finished' nor 'diverged'"
    fractions = [("after", "accuracy"), ("sparsity", "selected"), ("sparsity", "all")]
    for part, key in [*fractions, ("after", "loss"), ("cost", "seconds")]:
        value = row[part].get(key) if isinstance(row[part], dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"{part}.{key} is not a number"
        if (part, key) in fractions and not 0 <= value <= 1:
            return f"{part}.{key} must be in [0, 1], got {value}"
    return None


def _cell(row: Row, column: str) -> object:
    if column.startswith(("before_", "after_", "sparsity_")):
        part, key = column.split("_", 1)
        return (row[part] or {}).get(key)
    if column in ("seconds", "step_ms", "peak_memory_bytes"):
        return (row["cost"] or {}).get(column)
    if column in _ENVIRONMENT:
        return (row["environment"] or {}).get(column)
    return row[column]


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
