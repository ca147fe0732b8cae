"""How long steps take; shared by the benchmarks of training steps."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch

Step = Callable[[], None]


def milliseconds(step: Step, count: int, device: torch.device) -> list[float]:
    """Of each of ``count`` steps."""
    if device.type != "cuda":
        times = [time.perf_counter()]
        for _ in range(count):
            step()
            times.append(time.perf_counter())
        return [1000 * (after - before) for before, after in itertools.pairwise(times)]
    # Events instead of waiting after each step: in training the host runs ahead of the device.
    event_type: Any = torch.cuda.Event  # untyped
    events = [event_type(enable_timing=True) for _ in range(count + 1)]
    events[0].record()
    for event in events[1:]:
        step()
        event.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in itertools.pairwise(events)]
