"""Matrix products and convolutions by their settings, with their gradients."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Settings(NamedTuple):
    """Which product; a matrix product has none of these.

    Args:
        stride: Of a convolution, a number for each of its dimensions, like the next three.
        padding: See there.
        dilation: See there.
        extra: The output padding of a transposed convolution.
        groups: Of a convolution.
        transposed: Whether a convolution is transposed.
    """

    stride: Sequence[int] = ()
    padding: Sequence[int] = ()
    dilation: Sequence[int] = ()
    extra: Sequence[int] = ()
    groups: int = 1
    transposed: bool = False


def product(x: Tensor, weight: Tensor, bias: Tensor | None, settings: Settings) -> Tensor:
    """What torch's layer with these settings returns.

    Args:
        x: (..., in), or for convolutions (N, in, ...) or (in, ...).
        weight: The layer's.
        bias: The layer's, or None.
        settings: The layer's.
    """
    if not settings.stride:
        return F.linear(x, weight, bias)
    stride, padding, dilation, extra, groups, transposed = settings
    if transposed:
        function: Callable[..., Tensor] = _TRANSPOSED[len(stride) - 1]
        return function(x, weight, bias, stride, padding, extra, groups, dilation)
    function = _CONVOLUTIONS[len(stride) - 1]
    return function(x, weight, bias, stride, padding, dilation, groups)


def gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, settings: Settings, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients by ``x`` and by ``weight``, None where it is not needed.

    Args:
        gradient: That by the product.
        x: As for `product`, in the dtype of the gradient, like the weight.
        weight: See there.
        settings: See there.
        needs: Which gradients are needed.
    """
    of_x, of_weight = needs
    if settings.stride:
        stride, padding, dilation, extra, groups, transposed = settings
        alone = x.dim() < weight.dim()
        if alone:
            gradient, x = gradient.unsqueeze(0), x.unsqueeze(0)
        dx, dweight, _ = torch.ops.aten.convolution_backward(
            gradient, x, weight, None, stride, padding, dilation, transposed, extra, groups, [of_x, of_weight, False]
        )
        return dx.squeeze(0) if alone and of_x else dx, dweight
    rows = gradient.reshape(-1, gradient.shape[-1])
    dx = (rows @ weight).view(x.shape) if of_x else None
    dweight = rows.t() @ x.reshape(-1, x.shape[-1]) if of_weight else None
    return dx, dweight


def product_again(x: Tensor, weight: Tensor, settings: Settings) -> Tensor:
    """The `product` without a bias, by an operation that a compiler does not take for that of the forward pass.

    It would keep that one's result for the backward pass.

    Args:
        x: As for `product`.
        weight: Of the same dtype.
        settings: As for `product`.
    """
    stride, padding, dilation, extra, groups, transposed = settings
    found: Tensor = _again(x, weight, list(stride), list(padding), list(dilation), list(extra), groups, transposed)
    return found


@torch.library.custom_op("openwork::product_again", mutates_args=())
def _again(
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    extra: list[int],
    groups: int,
    transposed: bool,
) -> Tensor:
    return product(x, weight, None, Settings(stride, padding, dilation, extra, groups, transposed))


@_again.register_fake
def _(x: Tensor, weight: Tensor, *settings: Any) -> Tensor:
    return product(x, weight, None, Settings(*settings))


_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
