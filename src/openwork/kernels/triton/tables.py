"""Tables on the device that outlast a step: by them kernels find many tensors, also in CUDA graphs."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


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
