"""Writing files so that a crash leaves the old content or the new, never a half.

Of several processes that train one model, only the first writes.
"""

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from openwork.formats.files import replacing
from openwork.study.processes import rank


class WriteError(OSError):
    """A file could not be written: the disk is full, most often. The place is at fault, not what was written."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises a WriteError for whatever goes wrong while the context writes ``path``."""
    try:
        yield
    except OSError as error:
        raise WriteError(error.errno, error.strerror or str(error), str(path)) from error
    except (RuntimeError, SafetensorError) as error:  # how torch and safetensors report a full disk
        raise WriteError(f"cannot write {path}: {str(error).splitlines()[0]}; is there space left?") from error


def no_space(error: OSError) -> bool:
    """Whether the error says that no file can be written now, so that trying the next one is of no use."""
    return isinstance(error, WriteError) or error.errno in (errno.ENOSPC, errno.EDQUOT)


def read_json(path: Path, cure: str) -> Any:
    """The JSON value of a file.

    Args:
        path: The file.
        cure: What to do about one that holds none, after a semicolon; the other error says its own, as nothing has to
            be deleted because nobody may read it here.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it cannot be read or holds no JSON; names it and the cure.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(error.errno, error.strerror, str(path)) from error
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:  # ValueError: broken JSON and broken UTF-8 alike
        raise ValueError(f"{path} cannot be read ({error}); {cure}") from error


def unreadable(path: Path, error: OSError) -> ValueError:
    """What to raise where the disk or the rights of its user keep a file from being read, whatever it holds."""
    return ValueError(f"{path} cannot be read ({(error.strerror or str(error)).lower()}); make it readable")


def is_there(path: Path) -> bool:
    """Whether there is a file or folder, or where there may be one nobody may look: what reads it says so."""
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Lets ``write`` fill a temporary file beside ``path``, flushes it to disk and renames it to ``path``.

    Does nothing in any process but the first.

    Args:
        path: The file to replace or create.
        write: Called with the path of the temporary file, which it fills.

    Raises:
        WriteError: If that fails; ``path`` is then what it was before.
    """
    if rank():
        return
    with writing(path), replacing(path) as temporary:
        write(temporary)


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` to ``path`` atomically, as UTF-8."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of writers that were killed; nobody may be writing in the folder.

    Does nothing in any process but the first.
    """
    if rank():
        return
    for place, _, names in os.walk(folder):
        for name in names:
            if any(fnmatch(name, pattern) for pattern in (".*.*.????????", ".tmp??????")):  # ours, and safetensors'
                Path(place, name).unlink(missing_ok=True)
