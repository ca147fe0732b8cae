"""The claim of a run's directory: no two processes train the same run at once.

A claim is an advisory lock (`openwork.study.locks`) on the file ``lock`` of the directory. The operating system
releases it when the process ends, in whatever way, so nothing expires, there is no heartbeat, and clocks need not
agree. Between machines it holds where the file system carries locks between them (NFS from version 4, Lustre mounted
with ``flock``, GPFS, CephFS). On one that does not, two machines may train the same run; they then write the same
files, each whole.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from openwork.study.locks import LockedError, locked
from openwork.study.processes import barrier, rank


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
    with ExitStack() as held:
        try:
            held.enter_context(locked(folder / "lock"))
        except LockedError as holder:
            raise ClaimedError(f"{holder} is training run {folder.name}; wait for it, or stop it") from None
        barrier()
        yield


def remove_stale(folder: Path) -> None:
    """Removes the file that a killed process has left in the directory of a run; not while a process holds the claim.

    Nor where it cannot be removed, which does no harm.
    """
    if (folder / "lock").exists():
        with suppress(LockedError, OSError), locked(folder / "lock"):  # whose end removes it
            pass
