"""With which inputs a model calls its layers."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from openwork.core.forward import call, copied


@dataclass(frozen=True)
class Call:
    """What of an input decides how long a layer takes.

    Args:
        shape: The input's shape.
        stride: How it lies in memory.
        dtype: Its type.
        device: Where it is.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, x: Tensor) -> "Call":
        """The call with this input."""
        return cls(tuple(x.shape), x.stride(), x.dtype, x.device)

    def random(self) -> Tensor:
        """An input of this kind with values from N(0, 1), the same at each time."""
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(self.shape, generator=generator, device="cpu").to(self.device, self.dtype)
        x = torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)
        return x.copy_(values) if 0 not in self.stride else values


def record_calls(model: nn.Module, layers: Iterable[nn.Module], sample: Any) -> dict[nn.Module, Counter[Call]]:
    """How often ``model(sample)`` calls each layer with each kind of input.

    A layer that is called with more than one tensor, none, or a sparse or nested one, counts as not called.

    Args:
        model: A model in evaluation mode.
        layers: Modules in it.
        sample: As `call` takes it.
    """
    calls: dict[nn.Module, Counter[Call]] = {layer: Counter() for layer in layers}
    more: set[nn.Module] = set()

    def keep(layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if len(arguments) == 1 and not keywords and _is_plain(arguments[0]):
            calls[layer][Call.of(arguments[0])] += 1
        else:
            more.add(layer)

    hooks = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in calls]
    try:
        with torch.no_grad():
            call(model, copied(sample))
    finally:
        for hook in hooks:
            hook.remove()
    return {layer: Counter() if layer in more else found for layer, found in calls.items()}


def _is_plain(x: Any) -> bool:
    return isinstance(x, Tensor) and x.layout is torch.strided and not x.is_nested
