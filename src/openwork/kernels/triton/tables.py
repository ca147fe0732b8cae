"""How one launch finds many tensors: by where each begins, and by tables on the device, also in CUDA graphs."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import torch
from torch import Tensor


def begins(lengths: Sequence[int], unit: int = 1) -> tuple[list[int], int]:
    """Where each begins if they lie behind each other, at multiples of ``unit``, and the length of all."""
    *starts, total = accumulate((-(-length // unit) * unit for length in lengths), initial=0)
    return starts, total


def lasting(tensors: Sequence[Tensor], device: torch.device) -> tuple[Tensor, ...]:
    """The tensors on the device, in memory that no CUDA graph calls its own; keep them for as long as graphs may run.

    Before torch.compile captures a graph, what the thread allocates comes from that graph's memory, where its replays
    write over all that it did not return. So another thread, on a stream of its own, makes these copies.

    Args:
        tensors: On the CPU.
        device: Where to put them.
    """
    if device.type != "cuda":
        return tuple(tensor.to(device) for tensor in tensors)
    with ThreadPoolExecutor(max_workers=1) as other:
        return other.submit(_copied, tensors, device).result()


def _copied(tensors: Sequence[Tensor], device: torch.device) -> tuple[Tensor, ...]:
    with torch.cuda.stream(torch.cuda.Stream(device)):
        return tuple(tensor.to(device) for tensor in tensors)
