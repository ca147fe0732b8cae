"""What forward passes change in a model and beside it, to put it back; and other values for some passes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
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
    values = [(tensor, tensor.detach().clone()) for tensor in moved if _can_be_written(tensor)]

    @torch.no_grad()
    def restore() -> None:
        for tensor, value in values:
            tensor.copy_(value)
        for module, flag in training.items():
            if module.training != flag:
                module.training = flag
            _put_back(module._buffers, buffers[module])

    return restore


def _can_be_written(tensor: Tensor) -> bool:
    """Whether code can write to it in place, unlike to what is expanded, or was made in inference mode."""
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        return False
    strided = tensor.layout == torch.strided
    return not strided or all(size < 2 or step for size, step in zip(tensor.shape, tensor.stride(), strict=True))


def _put_back(buffers: dict[str, Tensor | None], former: dict[str, Tensor | None]) -> None:
    """Makes a module hold these buffers again; one of torch.jit can only replace each."""
    if list(buffers.keys()) == list(former):
        for name, buffer in former.items():
            if buffers[name] is not buffer:
                buffers[name] = buffer
    else:
        buffers.clear()
        buffers.update(former)


def same_generators(model: nn.Module) -> AbstractContextManager[None]:
    """Puts torch's generators back afterwards: the CPU's, and those of the GPUs that hold the model, and no others.

    Asking for another GPU's state would begin a CUDA context there.
    """
    held = {tensor.device for tensor in chain(model.parameters(), model.buffers())}
    return torch.random.fork_rng(sorted({device.index or 0 for device in held if device.type == "cuda"}))


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
