"""Prints how many bytes of memory of its own `ow.save` adds at its peak, of a state that is mapped from a file."""

import sys
import threading

from openwork.formats.checkpoint import read_checkpoint
from openwork.formats.sparse.save import save


def own() -> int:
    """Bytes that are no pages of files."""
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))


peak, done = 0, threading.Event()


def watch() -> None:
    global peak
    while not done.wait(0.002):
        peak = max(peak, own())


state = read_checkpoint(sys.argv[1]).tensors
before = own()
thread = threading.Thread(target=watch)
thread.start()
save(state, sys.argv[2], threads=2)
done.set()
thread.join()
print(peak - before)
