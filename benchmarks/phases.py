"""What the life of a sparsifier costs, in seconds and in bytes at its peak; shared by the benchmarks of large models."""

import ctypes
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

import openwork as ow


class Cost:
    """Seconds, bytes at the peak and bytes that stayed, beyond those that were there before."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.peak = 0
        self.stayed = 0


@contextmanager
def measured(device: torch.device) -> Iterator[Cost]:
    """Measures what the block takes: of a GPU what torch has allocated, on a CPU the resident memory of the process."""
    cost = Cost()
    before = _reset(device)
    began = time.perf_counter()
    yield cost
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    cost.seconds = time.perf_counter() - began
    cost.peak, cost.stayed = (max(now - before, 0) for now in _memory(device))


def life(model: nn.Module, technique: ow.MaskTechnique, device: torch.device) -> dict[str, Cost]:
    """What each phase costs: `sparsify` with its first masks, two mask updates, and `finalize`, in place.

    Args:
        model: A model, which is sparse afterwards.
        technique: One that has masks from the start, and recomputes them after each step.
        device: That of the model.
    """
    phases = {}
    with measured(device) as phases["sparsify"]:
        sparsifier = ow.sparsify(model, technique)
    for name in ("first update", "second update"):
        with measured(device) as phases[name]:
            sparsifier.step()
    with measured(device) as phases["finalize"]:
        sparsifier.finalize()
    return phases


def _reset(device: torch.device) -> int:
    """Begins a new peak; the bytes that are taken now."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    ctypes.CDLL(None).malloc_trim(0)  # memory that is free, but not given back, would hide what the block takes
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _memory(device)[1]


def _memory(device: torch.device) -> tuple[int, int]:
    """(at the peak, now) in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), torch.cuda.memory_allocated(device)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    peak, now = (1024 * int(status[name].split()[0]) for name in ("VmHWM", "VmRSS"))
    return peak, now
