"""What forward passes change in a model besides its weights, to put it back."""

from collections.abc import Callable

import torch
from torch import nn


def snapshot(model: nn.Module) -> Callable[[], None]:
    """A function that gives the model the buffers and training flags that it has now."""
    training = {module: module.training for module in model.modules()}
    buffers = {module: dict(module._buffers) for module in training}
    values = [(b, b.detach().clone()) for own in buffers.values() for b in own.values() if b is not None]

    @torch.no_grad()
    def restore() -> None:
        for buffer, value in values:
            buffer.copy_(value)
        for module, flag in training.items():
            module.training = flag
            module._buffers.clear()
            module._buffers.update(buffers[module])

    return restore
