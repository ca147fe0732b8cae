"""What every launch of a Triton kernel needs."""

import torch
from torch import Tensor


def device_of(tensor: Tensor) -> torch.cuda.device:
    """Within it, Triton launches where the tensor lies: it takes the current device, not that of its arguments."""
    return torch.cuda.device(tensor.device if tensor.is_cuda else -1)
