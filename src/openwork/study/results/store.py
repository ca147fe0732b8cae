"""The rows of a study: one `result.json` per finished run, read, checked and written as one CSV or Parquet file."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from openwork.study.evaluation.metric import BLEU
from openwork.study.files import write_atomically, write_text
from openwork.study.results.thresholds import damaged, threshold_rows

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
    *(f"after_{key}" for key in (*_MEASURED, "top5", "bleu", "tokenized_bleu")),
    "seconds",
    "step_ms",
    "peak_memory_bytes",
    "execution",
    *_ENVIRONMENT,
    "id",
    "format",
)
_WHOLE = {"seed", "step", "peak_memory_bytes", "threads", "format"}
_REAL = {"sparsity_selected", "sparsity_all", "seconds", "step_ms"}
# What a run computes, as opposed to what that cost and where it was done.
_COMPUTED = [c for c in COLUMNS if c in ("status", "step") or c.startswith(("sparsity_", "before_", "after_"))]


def read_results(directory: Path) -> list[Row]:
    """Every finished or diverged run under `directory`, sorted by name, settings and seed.

    A run is a folder `directory/<run id>/` that holds a `result.json` of format 1; folders without
    one are interrupted or foreign and are left to `unfinished`. One whose folder keeps other
    thresholds has a row for each of them, too (`thresholds.threshold_rows`).

    Raises FileNotFoundError if there is no such directory, and ValueError, naming the file and the
    cure, if a `result.json` or `thresholds.json` cannot be read or two of them are the same run.
    """
    rows = list(_results(directory))
    return sorted(rows, key=lambda r: (r["name"], r["settings"], r["seed"], r["task"], r["id"]))


def _results(directory: Path) -> Iterator[Row]:
    origin: dict[str, Path] = {}
    points, others = set(), []
    for folder in _folders(directory):
        path = folder / "result.json"
        if not path.exists():
            continue
        row = read_result(path)
        # A run copied under a second name would count as one more seed and narrow the interval.
        if row["id"] in origin:
            raise ValueError(f"{path} is the same run as {origin[row['id']]}; delete one of the two folders")
        origin[row["id"]] = path
        points.add(_point(row))
        yield row
        for other in threshold_rows(row, folder) if row["status"] == "finished" else []:
            if problem := _problem(other):
                raise ValueError(damaged(folder, problem))
            others.append(other)
    for other in others:
        # Runs that differ in their threshold alone have the same weights: at one threshold they are one point.
        if _point(other) not in points:
            points.add(_point(other))
            yield other


def _point(row: Row) -> tuple[str, str, str, int]:
    return row["task"], row["name"], row["settings"], row["seed"]


def collect(directories: Sequence[Path]) -> tuple[list[Row], list[str]]:
    """The `flat` rows of several study directories, each run and threshold once, and a sentence for each that differs.

    The row is that of the first directory that has the run. Cost and environment may differ; status, step, metrics
    and sparsity may not. Raises as `read_results` does.
    """
    rows: dict[str, tuple[Row, Path]] = {}
    differences = []
    for directory in directories:
        # Flat at once: the garbage collector would walk through the layers of all results again and again.
        for row in map(flat, _results(directory)):
            first, place = rows.setdefault(row["id"], (row, directory))
            if differing := [column for column in _COMPUTED if first[column] != row[column]]:
                differences.append(
                    f"run {row['id']} has another {', '.join(differing)} in {directory} than in {place}; "
                    f"the row is that of {place}"
                )
    found = [row for row, _ in rows.values()]
    return sorted(found, key=lambda r: (r["task"], r["name"], r["settings"], r["seed"], r["id"])), differences


def flat(row: Row) -> Row:
    """The row's value of each of `COLUMNS`, None where a diverged run measured nothing. See `docs/results.md`."""
    return {column: _cell(row, column) for column in COLUMNS}


def unfinished(directory: Path) -> list[str]:
    """The names of the folders under `directory` that hold no `result.json`, sorted.

    Raises FileNotFoundError if there is no such directory.
    """
    return [f.name for f in _folders(directory) if not (f / "result.json").exists()]


def failures(directory: Path) -> dict[str, dict[str, Any]]:
    """What the `failed.json` of each run under `directory` says that has failed and not been trained since, by id.

    Raises FileNotFoundError if there is no such directory, and ValueError as `read_failure` does.
    """
    found = {name: read_failure(directory / name) for name in unfinished(directory)}
    return {name: failure for name, failure in found.items() if failure is not None}


def read_failure(folder: Path) -> dict[str, Any] | None:
    """What a run's `failed.json` says: error, traceback, attempt, time, host; None if it has not failed.

    Raises ValueError, naming the file and the cure, where it is damaged.
    """
    path = folder / "failed.json"
    try:
        failure = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); delete it, and the run is tried again") from error
    if not isinstance(failure, dict) or not failure.keys() >= {"error", "attempt"}:
        raise ValueError(f"{path} does not say how a run failed; delete it, and the run is tried again")
    return failure


def write_csv(rows: Iterable[Row], path: Path) -> None:
    """Writes a line for each `flat` row to `path`, replacing it in one step. None becomes an empty cell."""
    write_table(COLUMNS, ([row[column] for column in COLUMNS] for row in rows), path)


def write_parquet(rows: Iterable[Row], path: Path) -> None:
    """Writes `flat` rows to `path` as Parquet, replacing it in one step.

    Counts are int64, other numbers float64, everything else text.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(column, getattr(pa, _kind(column))()) for column in COLUMNS])
    table = pa.Table.from_pylist(list(rows), schema)
    write_atomically(path, lambda temporary: pq.write_table(table, temporary))


def _kind(column: str) -> str:
    if column in _WHOLE:
        return "int64"
    return "float64" if column in _REAL or column.startswith(("before_", "after_")) else "string"


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
    with os.scandir(directory) as entries:
        return sorted(Path(entry) for entry in entries if entry.is_dir())


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
    bleu = row["after"].get(BLEU.key, 0.0)
    if isinstance(bleu, bool) or not isinstance(bleu, int | float) or not 0 <= bleu <= 100.001:
        return f"after.{BLEU.key} must be in [0, 100], got {bleu}"
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
