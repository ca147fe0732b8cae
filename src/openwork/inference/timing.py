"""How long functions take, measured in turns so that what else the machine does meets all of them alike."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

_SAMPLE = 2e-4  # seconds: shorter functions are called several times for one measurement


@dataclass(frozen=True)
class Timing:
    """Seconds that one call took.

    Args:
        seconds: Of every round, in their order.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of all rounds."""
        return float(np.median(self.seconds))

    @property
    def spread(self) -> tuple[float, float]:
        """The first and the third quartile."""
        low, high = np.quantile(self.seconds, (0.25, 0.75))
        return float(low), float(high)

    def ratios(self, other: "Timing") -> list[float]:
        """How many times faster than ``other``, of the same rounds, this was in each."""
        return [theirs / ours for ours, theirs in zip(self.seconds, other.seconds, strict=True)]

    def faster_than(self, other: "Timing") -> bool:
        """Whether this was faster than ``other`` beyond noise: in at least three of four rounds."""
        ratios = sorted(self.ratios(other))
        return ratios[len(ratios) // 4] > 1

    def to_dict(self) -> dict[str, float]:
        """Plain values, ready for JSON."""
        low, high = self.spread
        return {"median": self.median, "low": low, "high": high, "n": len(self.seconds)}


def time_in_turns(
    functions: Sequence[Callable[[], object]], device: torch.device, *, rounds: int, graph: bool = False
) -> list[Timing]:
    """How long each function takes.

    Each round calls all of them, and begins with another one. The first calls are not counted.

    Args:
        functions: What to call.
        device: Where they compute; the clock waits for it.
        rounds: How often each is measured.
        graph: Whether to capture each in a CUDA graph and measure its replay, which leaves out what Python takes.
    """
    if graph:
        functions = [_replay(function) for function in functions]
    repeats = [_repeats(function, device) for function in functions]
    seconds: list[list[float]] = [[] for _ in functions]
    for number in range(rounds):
        for place in range(len(functions)):
            index = (number + place) % len(functions)
            seconds[index].append(_measure(functions[index], repeats[index], device))
    return [Timing(tuple(found)) for found in seconds]


def _repeats(function: Callable[[], object], device: torch.device) -> int:
    function()
    once = min(_measure(function, 1, device) for _ in range(3))
    return max(1, math.ceil(_SAMPLE / max(once, 1e-7)))


def _measure(function: Callable[[], object], repeats: int, device: torch.device) -> float:
    _wait(device)
    begin = time.perf_counter()
    for _ in range(repeats):
        function()
    _wait(device)
    return (time.perf_counter() - begin) / repeats


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _replay(function: Callable[[], object]) -> Callable[[], object]:
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what is allocated and compiled at the first calls must not be captured
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        function()
    return captured.replay
