"""The rows of a study: one `result.json` per finished run, read, checked and written as one CSV or Parquet file."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openwork.study.files import is_there, read_json, write_atomically, write_text
from openwork.study.results.apart import told_apart
from openwork.study.results.directory import run_directories
from openwork.study.results.result import FORMAT, Result, canonical, identity, parsed
from openwork.study.results.thresholds import threshold_results

_MEASURED = ("accuracy", "loss", "sparsity", "value")
_ENVIRONMENT = ("device", "processor", "threads", "precision", "fleet", "torch", "python", "openwork", "commit")
_COST = ("seconds", "step_ms", "peak_memory_bytes")

COLUMNS = (
    "task",
    "name",
    "settings",
    "seed",
    "replicate",
    "status",
    "step",
    "metric",
    "better",
    "judged_on",
    "watched_on",
    "sparsity_selected",
    "sparsity_all",
    *(f"before_{key}" for key in _MEASURED),
    *(f"after_{key}" for key in (*_MEASURED, "top5", "bleu", "tokenized_bleu")),
    *_COST,
    "execution",
    *_ENVIRONMENT,
    "id",
    "run",
    "format",
)
_WHOLE = {"seed", "replicate", "step", "peak_memory_bytes", "threads", "fleet", "format"}
_REAL = {"sparsity_selected", "sparsity_all", "seconds", "step_ms"}
# What a run computes, as opposed to what that cost and where it ran.
_COMPUTED = [c for c in COLUMNS if c in ("status", "step") or c.startswith(("sparsity_", "before_", "after_"))]


def read_results(
    directory: Path, *, layers: bool = True, problems: list[str] | None = None, apart: bool = True
) -> list[Result]:
    """Every finished or diverged run under `directory`, sorted by name, settings and seed.

    A run is a folder `directory/<run id>/` that holds a `result.json` of this format (`directory.is_run`); those
    without one are left to `unfinished`. One whose folder keeps other thresholds has a result for each of them, too
    (`thresholds.threshold_results`).

    Args:
        directory: A study's.
        layers: Whether the results list their layers.
        problems: Gets a sentence for each run that cannot be read, and the others are returned. Without it the first
            such run raises.
        apart: Whether classes of one name and settings of one text are told apart (`apart.told_apart`), or stay as in
            their files.

    Raises:
        FileNotFoundError: If there is no such directory.
        ValueError: If a `result.json` or `thresholds.json` cannot be read or is not that of the run that its folder is
            named after, and there are no ``problems``; names the file and the cure.
    """
    results = _results(directory, layers, problems)
    (found,) = told_apart(results) if apart else [[*results]]
    return sorted(found, key=lambda r: (r.name, r.settings, r.seed, r.task, r.id))


def _results(directory: Path, layers: bool, problems: list[str] | None) -> Iterator[Result]:
    points, others = set(), []
    for folder in run_directories(directory):
        path = folder / "result.json"
        if not is_there(path):
            continue
        with _collecting(problems):
            result = read_result(path, layers=layers)
            points.add((result.group, result.seeds))
            yield result
            if result.finished:
                others += threshold_results(result, folder)
    for other in others:
        # Runs that differ in their threshold alone have the same weights: at one threshold they are one point.
        if (point := (other.group, other.seeds)) not in points:
            points.add(point)
            yield other


@contextmanager
def _collecting(problems: list[str] | None) -> Iterator[None]:
    """Adds the sentence of a ValueError to the problems, where there is a list of them."""
    try:
        yield
    except ValueError as error:
        if problems is None:
            raise
        problems.append(str(error))


def collect(directories: Sequence[Path], *, problems: list[str] | None = None) -> tuple[list[Result], list[str]]:
    """The results of several study directories, each run and threshold once, and a sentence for each that differs.

    The result is that of the first directory that has the run, without layers. Cost and environment may differ;
    status, step, metrics and sparsity may not.

    Args:
        directories: Those of the studies.
        problems: As for `read_results`.

    Raises:
        FileNotFoundError, ValueError: As for `read_results`.
    """
    found: dict[str, tuple[Result, Path]] = {}
    differences = []
    for directory in directories:
        for result in _results(directory, False, problems):
            first, place = found.setdefault(result.id, (result, directory))
            if first is result:
                continue
            named = {f"{part}_value" for part in ("before", "after") if f"{part}_{result.metric.key}" in COLUMNS}
            compared = [column for column in _COMPUTED if column not in named]  # each value by one name
            if differing := [column for column in compared if _cell(first, column) != _cell(result, column)]:
                differences.append(
                    f"run {result.id} has another {', '.join(differing)} in {directory} than in {place}; "
                    f"the row is that of {place}"
                )
    (results,) = told_apart(result for result, _ in found.values())
    return sorted(results, key=lambda r: (r.task, r.name, r.settings, r.seed, r.id)), differences


def flat(result: Result) -> dict[str, object]:
    """The result's value of each of `COLUMNS`, None where a diverged run measured nothing. See `docs/results.md`."""
    return {column: _cell(result, column) for column in COLUMNS}


def unfinished(directory: Path) -> list[str]:
    """The names of the runs' folders under `directory` that hold no `result.json`, sorted.

    Raises:
        FileNotFoundError: If there is no such directory.
    """
    return [folder.name for folder in run_directories(directory) if not is_there(folder / "result.json")]


def failures(directory: Path, *, problems: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """By id, the `failed.json` of each run under `directory` that has failed and has not been trained since.

    Args:
        directory: A study's.
        problems: As for `read_results`.

    Raises:
        FileNotFoundError: If there is no such directory.
        ValueError: As for `read_failure`.
    """
    found = {}
    for name in unfinished(directory):
        with _collecting(problems):
            if (failure := read_failure(directory / name)) is not None:
                found[name] = failure
    return found


def read_failure(folder: Path) -> dict[str, Any] | None:
    """A run's `failed.json`: error, traceback, attempt, time, host; None if it has not failed.

    Raises:
        ValueError: If it is damaged; names the file and the cure.
    """
    path = folder / "failed.json"
    try:
        failure = read_json(path, "delete it, and the run is tried again")
    except FileNotFoundError:
        return None
    said = failure if isinstance(failure, dict) else {}
    if not isinstance(said.get("error"), str) or not isinstance(said.get("attempt"), int):
        raise ValueError(f"{path} does not say how a run failed; delete it, and the run is tried again")
    return said


def write_csv(rows: Iterable[Mapping[str, object]], path: Path) -> None:
    """Writes a line for each `flat` row to `path`, replacing it in one step. None becomes an empty cell."""
    write_table(COLUMNS, ([row[column] for column in COLUMNS] for row in rows), path)


def write_parquet(rows: Iterable[Mapping[str, object]], path: Path) -> None:
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
    """Writes a CSV to `path`, replacing it in one step; None and NaN become empty cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if _is_missing(value) else value for value in line] for line in lines)
    # As bytes: the encoding of text would be that of the machine.
    write_text(path, text.getvalue())


def read_result(path: Path, *, layers: bool = True) -> Result:
    """One checked `result.json`.

    Args:
        path: The file.
        layers: Whether the result lists its layers.

    Raises:
        ValueError: If it is damaged or foreign, or is not that of the run that its folder is named after; names the
            file and the cure.
    """
    cure = "delete that folder and run the study again: only this run is repeated"
    content = read_content(path)
    if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
        raise ValueError(
            f"{path} has format {content['format']!r}, this openwork reads {FORMAT}; use the openwork that wrote it, "
            "or train the run again in another folder"
        )
    try:
        result = parsed(content, layers=layers)
    except ValueError as error:
        raise ValueError(f"{path} is not the result of a run: {error}; {cure}") from error
    if problem := _misidentified(result, path.absolute().parent.name):
        raise ValueError(f"{path} is not the result of that run: {problem}; {cure}")
    return result


def _misidentified(result: Result, folder: str) -> str:
    """Why a result cannot be that of the run that the folder is named after; empty where it can."""
    if (hashed := identity(result.run)) != result.id:
        return f"its run hashes to {hashed} and its id is {result.id}, so that one of them was edited"
    if result.id != folder:
        return f"its id is {result.id} and its folder {folder}, so that it was moved or copied"
    if result.seed != (seed := result.run.get("seed", 0)):
        return f"its seed is {result.seed} and its run's {seed}, so that one of them was edited"
    if result.finished and result.step != result.budget:
        return f"it finished at step {result.step} and its run has {result.budget} steps, so that one was edited"
    return ""


def read_content(path: Path) -> Any:
    """The JSON value of a `result.json`, unchecked.

    Raises:
        ValueError: If it is none; names the file.
    """
    try:
        return read_json(path, "delete that folder and run the study again: only this run is repeated")
    except FileNotFoundError as error:
        raise ValueError(f"{path} is not there; run the study again: only this run is repeated") from error


def _cell(result: Result, column: str) -> object:
    if column == "metric":
        return result.metric.key
    if column == "better":
        return "higher" if result.metric.higher_is_better else "lower"
    if column == "sparsity_selected":
        return result.sparsity
    if column.startswith(("before_", "after_")):
        part, key = column.split("_", 1)
        measured = result.before if part == "before" else result.after
        return (measured or {}).get(result.metric.key if key == "value" else key)
    if column == "run":
        return canonical(result.run)  # its hash is the id
    if column == "format":
        return FORMAT
    place = result.cost if column in _COST else result.environment if column in _ENVIRONMENT else result
    return getattr(place, column)


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
