"""What forward passes change in a model, to put it back; and other values for some passes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeGuard

import torch
from torch import Tensor, nn


def rescales(module: nn.Module) -> TypeGuard[nn.Embedding | nn.EmbeddingBag]:
    """Whether a forward of the module writes to its weight: that of an embedding with ``max_norm`` rescales rows."""
    return isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None


def snapshot(model: nn.Module) -> Callable[[], None]:
    """A function that gives the model the buffers, training flags and weights that forwards rescale as they are now."""
    training = {module: module.training for module in model.modules()}
    buffers = {module: dict(module._buffers) for module in training}
    moved = [b for own in buffers.values() for b in own.values() if b is not None]
    moved += [module.weight for module in training if rescales(module)]
    values = [(tensor, tensor.detach().clone()) for tensor in moved]

    @torch.no_grad()
    def restore() -> None:
        for tensor, value in values:
            tensor.copy_(value)
        for module, flag in training.items():
            module.training = flag
            module._buffers.clear()
            module._buffers.update(buffers[module])

    return restore


@contextmanager
def computing_with(model: nn.Module, change: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """Lets the model compute with other values inside; its parameters stay the same objects, and have none elsewhere.

    Args:
        model: The model.
        change: (name, values) -> the values to compute with, of a floating-point parameter or buffer.
    """
    buffers = {module: dict(module._buffers) for module in model.modules()}
    own = [(parameter, parameter.data) for parameter in model.parameters()]
    try:
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point():
                parameter.data = change(name, parameter.data)
        for prefix, module in model.named_modules():
            for name, buffer in module._buffers.items():
                if buffer is not None and buffer.is_floating_point():
                    module._buffers[name] = change(f"{prefix}.{name}", buffer)
        yield
    finally:
        for parameter, values in own:
            parameter.data = values
        for module, former in buffers.items():
            module._buffers.update(former)
