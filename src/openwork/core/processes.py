"""What several processes that train one model do together, where FSDP2 does not do it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def several() -> bool:
    """Whether this process is one of several of a process group."""
    return (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    )


@contextmanager
def in_all_processes(what: str, device: torch.device, *, alone: bool) -> Iterator[None]:
    """Raises where any process raised inside, so that the others do not wait for it for ever.

    Args:
        what: What is done, for the error of the others.
        device: Where the processes communicate.
        alone: Whether each only raises its own errors: there is one process, or what is done communicates itself, as
            the forward does under FSDP2, and the others wait there.

    Raises:
        RuntimeError: If another process raised.
    """
    alone = alone or not several()
    failed = torch.zeros((), device=device)
    try:
        yield
    except Exception:
        if not alone:
            torch.distributed.all_reduce(failed + 1)
        raise
    if not alone:
        torch.distributed.all_reduce(failed)
        if failed:
            raise RuntimeError(f"{what} failed in another process; see the error there")
