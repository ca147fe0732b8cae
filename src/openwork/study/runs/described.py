"""The description of a run in its directory, run.json, and what there forbids to go on with it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from openwork.study.files import read_json, write_text
from openwork.study.results.store import read_result
from openwork.study.runs.config import to_plain
from openwork.study.runs.run import Run


def write_description(run: Run, folder: Path) -> None:
    """Writes the run's run.json, with the fields that have their defaults."""
    write_text(folder / "run.json", json.dumps(to_plain(run, defaults=True), indent=2) + "\n")


def refuse_old(folders: Iterable[Path]) -> None:
    """Refuses a run's directory from before format 2, beside which the same run would be trained again.

    Raises:
        ValueError: If one of the folders is such a directory.
    """
    for folder in folders:
        try:
            with (folder / "run.json").open("rb") as file:
                old = b'"type": "openwork.' in file.read(80)
        except OSError:
            continue
        if old:
            raise ValueError(
                f"{folder} is of a run from before format 2 of run directories, when runs had other ids; give another "
                "folder, or use the openwork that wrote it"
            )


def refuse_changed(run: Run, folder: Path) -> None:
    """Refuses a result or checkpoint from when a field that the run leaves at its default had another default.

    Fields that only one of the two descriptions has are left alone, as a setting may be added.

    Raises:
        ValueError: If the folder holds either, and its run.json disagrees with the run or cannot be read.
    """
    if not is_begun(folder):
        return
    if _is_unreadable(folder / "result.json"):
        return
    path = folder / "run.json"
    try:
        written = read_json(path, "delete that folder, and the run is trained again")
    except FileNotFoundError:
        return
    if found := _difference(written, to_plain(run, defaults=True)):
        field, before, now = found
        raise ValueError(
            f"{folder} was trained when the default of {field} was {before}, and now it is {now}; restore that "
            "default, rename the field, or give another folder"
        )


def _is_unreadable(result: Path) -> bool:
    """Whether there is a result, but a damaged one or that of another run; what reads it says so."""
    try:
        return result.exists() and not read_result(result, layers=False)
    except ValueError:
        return True


def is_begun(folder: Path) -> bool:
    """Whether the run's directory holds a result or a checkpoint."""
    return any((folder / name).exists() for name in ("result.json", "checkpoint.pt"))


def _difference(before: Any, now: Any, field: str = "run") -> tuple[str, str, str] | None:
    """The first field in which two descriptions disagree, and what each says."""
    described = isinstance(before, dict) and isinstance(now, dict) and "type" in before
    if described and before["type"] == now.get("type"):
        inside = (_difference(before[key], now[key], f"{field}.{key}") for key in now if key in before)
        return next((found for found in inside if found), None)
    if before == now:
        return None
    return field.removeprefix("run."), json.dumps(before), json.dumps(now)
