"""Writing files and folders so that a crash leaves the old content or the new, never a half."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Lets an OSError of the context name ``path``, where it names what is written meanwhile, or nothing.

    That of a full disk names nothing, and that of a folder where nobody may write a name that no user has given.

    Args:
        path: The file or folder that is written, by way of others beside it whose names begin with its
            `temporary_prefix`.
    """
    try:
        yield
    except OSError as error:
        named = Path(os.fsdecode(error.filename)).parts if isinstance(error.filename, str | bytes | Path) else ()
        if error.errno is None or (named and not any(part.startswith(temporary_prefix(path)) for part in named)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def temporary_prefix(path: Path) -> str:
    """What the names of all files begin with that are written beside ``path`` for its sake."""
    return f".{path.name}."


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path``, empty, which takes its place at the end, flushed to disk; a failure removes it.

    It has the mode of the file that it replaces, or that of any new file, even where the caller puts another one in its
    place, as safetensors does, whose files nobody else may read.

    Args:
        path: The file to replace or create.

    Raises:
        ValueError: If something else is there: root would put a file in the place of a device.
    """
    refuse_stream(path)
    temporary = path.with_name(f"{temporary_prefix(path)}{secrets.token_hex(4)}")
    with writing(path):
        # Not mkstemp, whose files nobody else may read: this call asks the process's umask.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            if path.is_file():
                temporary.chmod(path.stat().st_mode & 0o777)
            mode = temporary.stat().st_mode & 0o777
            yield temporary
            if temporary.stat().st_mode & 0o777 != mode:
                temporary.chmod(mode)
            _flush(temporary)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def creating(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder``, empty, which takes that name at the end; a failure removes it.

    Args:
        folder: The folder to create.

    Raises:
        FileNotFoundError: If there is no folder to create it in.
        FileExistsError: If there is something of that name.
    """
    temporary = folder.with_name(f"{temporary_prefix(folder)}{secrets.token_hex(4)}")
    if not folder.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {folder.absolute().parent} to write {folder.name} to; make it")
    refuse_existing(folder)
    with writing(folder):
        temporary.mkdir()
        try:
            yield temporary
            for path in temporary.rglob("*"):
                if path.is_file():
                    _flush(path)
            refuse_existing(folder)  # a rename would replace an empty folder
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def refuse_existing(path: Path) -> None:
    """Raises FileExistsError if there is something at ``path``."""
    if path.exists() or path.is_symlink():
        raise FileExistsError(f"{path} exists, and nothing is overwritten; give another name, or remove it")


def refuse_stream(path: Path) -> None:
    """Refuses a device or a pipe, such as ``/dev/stdout``, whose place no file may take.

    Raises:
        ValueError: If it is one.
    """
    if _is_stream(path):
        raise ValueError(f"cannot write {path}, which is a device or a pipe; give another name")


def _is_stream(path: Path) -> bool:
    """Whether it is a device or a pipe, or a stream of this process, even where that is redirected to a file."""
    for _ in range(40):  # as many links as Linux follows
        folder = Path(os.path.realpath(path.absolute().parent))
        if folder.is_relative_to("/proc") and os.path.lexists(path):
            return True
        if not path.is_symlink():
            break
        path = folder / os.readlink(path)
    return path.exists() and not path.is_file() and not path.is_dir()


def _flush(path: Path) -> None:
    """Waits until the disk has what was written to the file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
