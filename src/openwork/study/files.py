"""Writing files so that a crash leaves the old content or the new, never a half.

Of several processes that train one model, only the first writes.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

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
