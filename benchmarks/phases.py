"""What the life of a sparsifier costs, in seconds and in bytes at its peak; for the benchmarks of large models."""

import ctypes
import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from raw import keep
from torch import nn

import openwork as ow


class Cost:
    """Seconds, bytes at the peak and bytes that stayed, beyond those that were there before.

    On a CPU seconds are those of its processor time, which other programs on the machine hardly change.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.peak = 0
        self.stayed = 0


@contextmanager
def measured(device: torch.device) -> Iterator[Cost]:
    """Measures what the block takes: of a GPU what torch has allocated, on a CPU the resident memory of the process."""
    cost = Cost()
    before = _reset(device)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    began = clock()
    yield cost
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    cost.seconds = clock() - began
    cost.peak, cost.stayed = (max(now - before, 0) for now in _memory(device))


def life(model: nn.Module, technique: ow.MaskTechnique, device: torch.device) -> dict[str, Cost]:
    """What each phase costs: `sparsify` with its first masks, the second mask update, and `finalize`, in place.

    Args:
        model: A model, which is sparse afterwards.
        technique: One that has masks from the start, and recomputes them after each step.
        device: That of the model.
    """
    phases = {}
    with measured(device) as phases["sparsify"]:
        sparsifier = ow.sparsify(model, technique)
    sparsifier.step()
    with measured(device) as phases["update"]:
        sparsifier.step()
    with measured(device) as phases["finalize"]:
        sparsifier.finalize()
    return phases


def report(name: str, runs: Sequence[dict[str, Cost]], size: int, device: torch.device, out: Path | None) -> None:
    """Prints a line for each phase, and keeps its numbers.

    Args:
        name: What was measured.
        runs: What `life` returned, each time.
        size: The number of weights.
        device: On what it was measured.
        out: The file of raw numbers, as `raw.keep` takes it.
    """
    for phase in runs[0]:
        costs = [run[phase] for run in runs]
        each = [1e9 * cost.seconds / size for cost in costs]
        peaks, stayed = [cost.peak / size for cost in costs], [cost.stayed / size for cost in costs]
        label = f"{name}, {size / 1e6:.0f} M, {phase}"
        series = {"ns a weight": each, "bytes a weight, peak": peaks}
        for unit, values in series.items():
            keep(out, {label: values}, unit=unit, device=device)
        print(
            f"{label:58} {min(cost.seconds for cost in costs):8.3f} s {min(each):8.2f} ns, "
            f"{max(peaks):6.2f} bytes at the peak, {max(stayed):6.2f} after"
        )


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
