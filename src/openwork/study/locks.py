"""Locks of files, by which processes take turns: advisory ones (flock), which end with the process that holds them.

A forked process would hold the lock as long as it lives, even after the process that took it has ended. So it closes
the files of all locks at once. Programs that a process starts do not inherit them.

Each lock creates the file and removes it at the end. On NFS that also makes the machine read the directory again, and
so see what another machine has just written there. A file that a killed process left locks nothing.
"""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from openwork.study.files import writing

_held: set[TextIO] = set()
"""The locked files of this process."""


def _close_inherited() -> None:
    # Closed, not unlocked: parent and child share the lock, which ends when the last of them closes the file.
    while _held:
        _held.pop().close()


os.register_at_fork(after_in_child=_close_inherited)


class LockedError(Exception):
    """Another process holds the lock; the message says which one."""


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds the lock of the file ``path``, which is there meanwhile.

    Args:
        path: The file, in a directory that exists. Nothing else is kept in it.
        wait: Wait for a process that holds the lock.

    Raises:
        LockedError: If another process holds the lock, and nobody waits for it.
        WriteError: If the file system has no locks or no space.
    """
    with writing(path):
        file = _locked(path, wait)
    _held.add(file)
    try:
        yield
    finally:
        try:
            path.unlink(missing_ok=True)  # while the lock is still held
        finally:
            _held.discard(file)
            file.close()


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of the file ``path``; one on another machine that the file names is believed to.

    The lock is tried, shared and for a moment, as a process of the number in the file may be any by now. That shows
    what holds it on this machine, in whatever container, and on others where the file system carries locks between
    machines: where it does not, nobody can tell.
    """
    try:
        with path.open(encoding="utf-8") as file:
            _, on, host = file.read().strip().partition(" on ")
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is no file, or there are no locks
        return False
    return bool(on) and host != socket.gethostname()


def _locked(path: Path, wait: bool) -> TextIO:
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            _lock(file, wait)
            if _is(file, path):
                _sign(file, path)
                return file
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise LockedError(holder) from None
        except BaseException:
            file.close()
            raise
        file.close()  # its holder removed the file after it was opened here: this lock is on a file without a name


def _lock(file: TextIO, wait: bool) -> None:
    """Locks the file alone; raises BlockingIOError where another process has done so, but not where one only looks."""
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            return
        except BlockingIOError:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # raises unless all others share it, as `is_held` does


def _sign(file: TextIO, path: Path) -> None:
    """Writes into the locked file who holds it; where the disk is full, no file is left."""
    try:
        file.truncate(0)
        os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _is(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
