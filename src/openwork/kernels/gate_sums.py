"""How many hard-concrete gates of all weights are open, and their weights' norm: what L0 adds to the loss.

P(z != 0) = sigmoid(log alpha - beta log(-gamma / zeta)): Louizos, Welling & Kingma 2018, arXiv 1712.01312, equation 12.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from openwork.kernels.gates import BETA, GAMMA, ZETA, lie_alike, path

SHIFT = -BETA * math.log(-GAMMA / ZETA)
"""P(z != 0) = sigmoid(log alpha + SHIFT)."""


def open_cost(factors: Tensor, log_alphas: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """factors[0] * sum P(z != 0) + factors[1] * sum P(z != 0) * weight^2, shape ().

    Args:
        factors: (2,), without a gradient.
        log_alphas: Of all weights.
        weights: Of the same shapes; none where the second sum is not wanted.
    """
    function: Any = _OpenCost  # untyped
    found: Tensor = function.apply(factors, len(log_alphas), *log_alphas, *weights)
    return found


class _OpenCost(Function):
    """`open_cost`, whose gradients need no more than its arguments."""

    @staticmethod
    def forward(ctx: Any, factors: Tensor, count: int, *tensors: Tensor) -> Tensor:
        ctx.count = count
        ctx.save_for_backward(factors, *tensors)
        sums: Tensor = open_sums(list(tensors[:count]), list(tensors[count:]))
        return (factors * sums).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        factors, *tensors = ctx.saved_tensors
        log_alphas, weights = tensors[: ctx.count], tensors[ctx.count :]
        # Compiled with the gates' gradients these cost no pass of their own.
        plain = torch.compiler.is_compiling() or torch.is_grad_enabled()
        function = plain_gradients if plain else gradients
        return None, None, *function(gradient * factors, log_alphas, weights)


@torch.library.custom_op("openwork::open_sums", mutates_args=())
def open_sums(log_alphas: list[Tensor], weights: list[Tensor]) -> Tensor:
    """(2,): the sum of P(z != 0) over all weights, and that of P(z != 0) * weight^2, 0 without weights.

    Args:
        log_alphas: At least one, on one device.
        weights: Of the same shapes, or none.
    """
    if _at_once(log_alphas, weights):
        from openwork.kernels.triton import gate_sums

        return gate_sums.sums(log_alphas, weights, SHIFT)
    return plain_sums(log_alphas, weights)


@open_sums.register_fake
def _(log_alphas: list[Tensor], weights: list[Tensor]) -> Tensor:
    return log_alphas[0].new_empty(2)


def plain_sums(log_alphas: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """The twin of `open_sums`."""
    chances = [torch.sigmoid(log_alpha + SHIFT) for log_alpha in log_alphas]
    squares = [(p * weight * weight).sum() for p, weight in zip(chances, weights, strict=bool(weights))]
    count = torch.stack([p.sum() for p in chances]).sum()
    return torch.stack([count, torch.stack(squares).sum() if squares else torch.zeros_like(count)])


def gradients(factors: Tensor, log_alphas: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """What `plain_gradients` returns, on a GPU by one kernel.

    Args:
        factors: (2,), on the device.
        log_alphas: As `open_sums` takes them.
        weights: See there.
    """
    if not _at_once(log_alphas, weights):
        return plain_gradients(factors, log_alphas, weights)
    from openwork.kernels.triton import gate_sums

    return gate_sums.gradients(factors, log_alphas, weights, SHIFT)


def plain_gradients(factors: Tensor, log_alphas: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of factors @ open_sums(...) by each log alpha, then by each weight."""
    chances = [torch.sigmoid(log_alpha + SHIFT) for log_alpha in log_alphas]
    if not weights:
        return [factors[0] * (p - p * p) for p in chances]
    pairs = list(zip(chances, weights, strict=True))
    of_log_alphas = [(factors[0] + factors[1] * weight * weight) * (p - p * p) for p, weight in pairs]
    return [*of_log_alphas, *(2 * factors[1] * p * weight for p, weight in pairs)]


def _at_once(log_alphas: Sequence[Tensor], weights: Sequence[Tensor]) -> bool:
    """Whether one kernel can take them all, which it finds by their addresses."""
    pairs = list(zip(log_alphas, weights or log_alphas, strict=True))
    first = log_alphas[0]
    return path(first.device, first.dtype).name == "Triton" and all(
        lie_alike(*pair) and each.dtype == first.dtype and each.data_ptr() % 16 == 0 for pair in pairs for each in pair
    )
