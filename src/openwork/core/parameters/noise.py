"""Noise in a tensor's dtype and on its device, from torch's own generator unless another is given."""

from collections.abc import Sequence

import torch
from torch import Tensor


def normal(shape: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise.

    Args:
        shape: The noise's shape.
        like: A tensor of the wanted dtype, on the wanted device.
        generator: On that device; None for torch's own.
    """
    if generator is None:  # a compiler that does not know the batch size yet wants the call without a generator
        return torch.randn(shape, dtype=like.dtype, device=like.device)
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


def uniform(shape: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Noise in [0, 1).

    Args:
        shape: The noise's shape.
        like: A tensor of the wanted dtype, on the wanted device.
        generator: On that device; None for torch's own.
    """
    if generator is None:
        return torch.rand(shape, dtype=like.dtype, device=like.device)
    return torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device)
