"""The end of a backward pass."""

from collections.abc import Callable
from typing import Any

import torch


def after_backward(call: Callable[[], None]) -> None:
    """Has ``call`` called at the end of the backward pass that runs now, when all gradients are what they will be.

    DistributedDataParallel and FSDP2 write averaged gradients in a callback there, too, FSDP2 on a stream of its own. A
    callback that a callback adds comes after all others.
    """
    engine: Any = torch.autograd.Variable._execution_engine
    engine.queue_callback(lambda: engine.queue_callback(call))
