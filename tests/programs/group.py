"""The two processes of a gloo group."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import distributed as dist


@contextmanager
def group() -> Iterator[tuple[int, Path]]:
    """This process's rank and the folder that both share, which are the program's first arguments; ends the process."""
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    # A file instead of a port: no other process can take it, and processes need not agree on one first.
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    yield rank, folder
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # without Python's shutdown, in which a thread of gloo that asks for the interpreter aborts the process
