"""The claim of a run's directory: no two processes train the same run at once.

A claim is an advisory lock (flock) on the file ``lock`` of the directory. The operating system releases it when the
process ends, in whatever way, so nothing expires, there is no heartbeat, and clocks need not agree. Between machines
it holds where the file system carries locks between them (NFS from version 4, Lustre mounted with ``flock``, GPFS,
CephFS). On one that does not, two machines may train the same run; they then write the same files, each whole.

A forked process would hold the lock as long as it lives, even after the process that claimed has ended. So it closes
the files of all claims at once. Programs that a process starts do not inherit them.

Each claim creates the file and removes it at the end. On NFS that also makes the machine read the directory again, and
so see a result that another machine has just written.
"""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from openwork.study.files import writing
from openwork.study.processes import barrier, rank

_held: set[TextIO] = set()
"""The locked files of this process's claims."""


def _close_inherited() -> None:
    # Closed, not unlocked: parent and child share the lock, which ends when the last of them closes the file.
    while _held:
        _held.pop().close()


os.register_at_fork(after_in_child=_close_inherited)


class ClaimedError(ValueError):
    """Another process trains this run."""


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Holds the claim of a run's directory; of several processes that train together, the first holds it.

    Args:
        folder: The run's directory, which exists.

    Raises:
        ClaimedError: If another process holds the claim.
        WriteError: If the file system has no locks or no space.
    """
    if rank():
        barrier()
        yield
        return
    path = folder / "lock"
    with writing(path):
        file = _locked(path)
    _held.add(file)
    try:
        barrier()
        yield
    finally:
        path.unlink(missing_ok=True)  # while the lock is still held
        _held.discard(file)
        file.close()


def _locked(path: Path) -> TextIO:
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(file, path):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
                file.flush()
                return file
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise ClaimedError(f"{holder} is training run {path.parent.name}; wait for it, or stop it") from None
        except BaseException:
            file.close()
            raise
        file.close()  # its holder removed the file after it was opened here: this lock is on a file without a name


def _is(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
