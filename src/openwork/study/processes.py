"""Several processes that train one model, as torchrun starts them; without torchrun there is one."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@contextmanager
def processes(device: "torch.device") -> Iterator["torch.device"]:
    """Joins the processes that torchrun started, until the context ends; yields this process's device.

    Args:
        device: "cuda" becomes GPU number LOCAL_RANK. Without torchrun, the device is yielded as it is.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    import torch
    import torch.distributed as dist

    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process; 0 where it is the only one."""
    return sys.modules["torch"].distributed.get_rank() if _are_several() else 0


def world_size() -> int:
    """How many processes there are."""
    return sys.modules["torch"].distributed.get_world_size() if _are_several() else 1


def _are_several() -> bool:
    """Whether this process has joined others, for which it has imported torch; who only reads files needs none."""
    return "torch" in sys.modules and sys.modules["torch"].distributed.is_initialized()


def barrier() -> None:
    """Waits for the other processes, after which what the first one wrote is there."""
    if world_size() > 1:
        import torch.distributed as dist

        dist.barrier()


def sum_over_processes(tensors: "list[Tensor]") -> None:
    """Replaces tensors of one dtype and device by their sums over all processes, in one message."""
    if world_size() > 1 and tensors:
        import torch
        import torch.distributed as dist

        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        torch._foreach_copy_(tensors, [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])
