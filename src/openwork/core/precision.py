"""The precision in which openwork learns, sums and ranks: float32 at least, whatever the weights have."""

import torch
from torch import Tensor

LOW = (torch.float16, torch.bfloat16)
"""Sums over steps stop growing in these, and small numbers vanish."""


_WITHOUT_FLOAT64 = ("mps",)


def where_float64_is(tensor: Tensor) -> Tensor:
    """The tensor itself; on the CPU where its device has no float64, as Apple's."""
    return tensor.cpu() if tensor.device.type in _WITHOUT_FLOAT64 else tensor


def exact(tensor: Tensor) -> Tensor:
    """The tensor in float32 where it is float16 or bfloat16; otherwise the tensor itself."""
    return tensor.float() if tensor.dtype in LOW else tensor
