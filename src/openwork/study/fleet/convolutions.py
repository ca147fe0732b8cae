"""Convolutions of many models as products of matrices.

Under `torch.func.vmap` a convolution whose weights are stacked becomes one in as many groups, for which libraries have
slow kernels. A stack of products is fast everywhere, for the price of each patch of the input in memory.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class Unfolded(TorchFunctionMode):
    """Within it, two-dimensional convolutions in one group and without dilation are products with patches."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Calls the function, or what stands for it."""
        if func is torch.conv2d:
            return _convolution(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.conv2d`: (N, in, H, W) -> (N, out, H', W')."""
    if groups != 1 or isinstance(padding, str) or input.dim() != 4 or _pair(dilation) != (1, 1):
        with torch._C.DisableTorchFunction():
            return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    outputs, inputs, height, width = weight.shape
    down, right = _pair(stride)
    top, left = _pair(padding)
    # Views and one copy; torch's own unfolding launches a kernel for each image.
    patches = F.pad(input, (left, left, top, top)).unfold(2, height, down).unfold(3, width, right)
    images, _, rows, columns = patches.shape[:4]
    matrix = patches.permute(0, 2, 3, 1, 4, 5).reshape(images * rows * columns, inputs * height * width)
    found = F.linear(matrix, weight.reshape(outputs, -1), bias)
    return found.view(images, rows, columns, outputs).permute(0, 3, 1, 2)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
