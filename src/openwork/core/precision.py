"""The precision in which openwork learns, sums and ranks: float32 at least, whatever the weights have."""

import torch
from torch import Tensor

LOW = (torch.float16, torch.bfloat16)
"""Sums over steps stop growing in these, and small numbers vanish."""


def exact(tensor: Tensor) -> Tensor:
    """The tensor in float32 where it is float16 or bfloat16; otherwise the tensor itself."""
    return tensor.float() if tensor.dtype in LOW else tensor
