"""Replacing a file so that a crash leaves the old content or the new, never a half."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path``, empty, which takes its place at the end, flushed to disk; a failure removes it.

    It has the mode of the file that it replaces, or that of any new file.

    Args:
        path: The file to replace or create.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    # Not mkstemp, whose files nobody else may read: this call asks the process's umask.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        if path.is_file():
            temporary.chmod(path.stat().st_mode & 0o777)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
