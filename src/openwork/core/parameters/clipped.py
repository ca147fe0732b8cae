"""Clipping whose gradient is computed in one pass."""

from torch import Tensor
from torch.nn import functional as F


def clipped(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """clip(x, low, high), as `torch.clamp`, but for the gradient at the limits themselves, which is 0 here.

    The gradient of `torch.clamp` compares twice and selects, which on a CPU takes ten times as long.

    Args:
        x: Of any shape.
        low: The lower limit.
        high: The upper limit; with stacked models both may be tensors.
    """
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return x.clamp(low, high)  # type: ignore[arg-type]
    return F.hardtanh(x, low, high)
