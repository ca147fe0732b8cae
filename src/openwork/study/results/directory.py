"""Which directories are those of runs: other programs write a run.json or result.json, too."""

import os
import re
import stat
from pathlib import Path

_ID = re.compile("[0-9a-f]{16}")
_BEGINNINGS = {
    "run.json": re.compile(rb'\s*\{\s*"type":\s*"[^"]*",\s*"task":\s*\{\s*"type":'),
    "result.json": re.compile(rb'\s*\{\s*"format":\s*\d+,\s*"id":\s*"'),
}
"""How what openwork writes begins. Nothing else of the file is read."""


def is_run(path: Path) -> bool:
    """Whether the directory is a run's.

    It has a run.json or result.json, and the name of a run, whatever became of its files. Under another name, as of a
    copy, one of the files must begin as openwork's do.
    """
    try:
        found = [name for name in _BEGINNINGS if _is_file(path / name)]
    except PermissionError:  # perhaps a run that its owner alone may read, which whatever reads it says; or lost+found
        return _is_id(path)
    return bool(found) and (_is_id(path) or any(_begins(path / name, _BEGINNINGS[name]) for name in found))


def run_directories(directory: Path) -> list[Path]:
    """The directories of runs in a folder, by id; also those whose process died before it described the run.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"no folder of runs {directory}; is the path right?")
    with os.scandir(directory) as entries:
        folders = sorted(Path(entry) for entry in entries if _is_folder(entry))
    return [folder for folder in folders if _is_id(folder) or is_run(folder)]


def _is_file(path: Path) -> bool:
    """As `Path.is_file` of every Python.

    Raises:
        PermissionError: If nobody may look.
    """
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except PermissionError:
        raise
    except OSError:
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, or a link to where nobody may look; a link to itself is none."""
    try:
        return entry.is_dir()
    except PermissionError:
        return True
    except OSError:
        return False


def _is_id(path: Path) -> bool:
    return bool(_ID.fullmatch(path.absolute().name))


def _begins(path: Path, beginning: re.Pattern[bytes]) -> bool:
    try:
        with path.open("rb") as file:
            return bool(beginning.match(file.read(1000)))
    except OSError:
        return False
