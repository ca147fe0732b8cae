"""Weights times hard-concrete gates.

A gate is z = clip(s * (zeta - gamma) + gamma, 0, 1) with s = sigmoid((log u - log(1 - u) + log alpha) / beta) and u
uniform: Louizos, Welling & Kingma 2018, arXiv 1712.01312, equations 10-11. As beta is 2/3, s = 1 / (1 + r^1.5 exp(-1.5
log alpha)) with r = (1 - u) / u, without a logarithm: r^1.5 is r * sqrt(r). The gradient needs z alone.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from openwork.kernels.paths import MOST, Path, in_one_piece, transformed, triton_or_plain
from openwork.noise import draw_of, is_keyed, middles_of, next_key, uniform

EPS = 1e-8
BETA = 2 / 3  # temperature
GAMMA, ZETA = -0.1, 1.1  # the interval that the concrete variable is stretched to


def path(device: torch.device, dtype: torch.dtype) -> Path:
    """Which way gates and the sums of open ones go; compiled code fuses gates into what is around them instead.

    Args:
        device: That the weights lie on.
        dtype: Of the weights.
    """
    return triton_or_plain(device, dtype, (torch.float32,))


def gated(weight: Tensor, log_alpha: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Weight * z, with a gate for each weight.

    On a GPU the backward pass computes the noise again, from its key, and keeps nothing; on a CPU it keeps z.

    Args:
        weight: Of any shape, float32 or float64.
        log_alpha: Of the weight's shape.
        generator: On the weight's device, instead of a key and of torch's own.
    """
    if transformed():
        return weight * stretched(torch.sigmoid((log_alpha - odds(log_alpha, generator).log()) / BETA))
    if log_alpha.is_cuda and generator is None:
        return _apply(_Regenerated, weight, log_alpha, *next_key(log_alpha.device))
    return _apply(_Kept, weight, log_alpha, odds(log_alpha, generator))


def gated_rows(
    look_up: Callable[[Tensor, Tensor], Tensor],
    ids: Tensor,
    weight: Tensor,
    log_alpha: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """weight[ids] * z, with gates for each occurrence of an id; a GPU keeps none of these rows.

    Args:
        look_up: (ids, matrix) -> matrix[ids], with the layer's own gradient.
        ids: Of any shape.
        weight: (number of ids, ...).
        log_alpha: Of the weight's shape.
        generator: As for `gated`.
    """
    rows, log_alphas = look_up(ids, weight), look_up(ids, log_alpha)
    if not log_alpha.is_cuda or generator is not None or transformed():
        return gated(rows, log_alphas, generator)
    return _apply(_RegeneratedRows, rows, log_alphas, weight, log_alpha, ids, *next_key(log_alpha.device))


def _apply(function: Any, *args: Any) -> Tensor:
    found: Tensor = function.apply(*args)  # untyped
    return found


def odds(log_alpha: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """(1 - u) / u for each gate, finite and never 0.

    Args:
        log_alpha: A tensor of the wanted shape and dtype, on the wanted device.
        generator: On that device, instead of a key and of torch's own.
    """
    if is_keyed() and generator is None:
        return _odds(log_alpha, *next_key(log_alpha.device))
    u = uniform(log_alpha.shape, log_alpha, generator)
    return (1 - u).div_(u.add_(EPS))


def _odds(log_alpha: Tensor, key: Tensor, number: int, *, again: bool = False) -> Tensor:
    middle = middles_of(draw_of(key, number, again=again), log_alpha.shape, log_alpha, again=again)
    return (1 - middle).div_(middle.add_(1))


def stretched(s: Tensor) -> Tensor:
    """clip(s * (zeta - gamma) + gamma, 0, 1)."""
    # Literals: where shapes are dynamic, Dynamo makes symbols of global floats, which no autograd function can take.
    return F.hardtanh(s * (1.1 - -0.1) + -0.1, 0, 1)


def _gates(log_alpha: Tensor, odds: Tensor) -> Tensor:
    """z; where its terms leave the range of floats, s is 0 or 1, as it should be."""
    # exp2 and operations in place take a third of the time of exp and others on a CPU; the factor is -log2(e) / beta.
    closing = torch.exp2(log_alpha * -2.1640425613334453).mul_(odds).mul_(odds.sqrt())
    s = closing.add_(1).reciprocal_()
    return stretched(s)


def _gradients(gradient: Tensor, weight: Tensor, log_alpha: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Those of weight and log alpha. Where 0 < z < 1, its slope is (z - gamma) (zeta - z) / (beta (zeta - gamma))."""
    if not torch.compiler.is_compiling() and torch.is_grad_enabled():
        z = _differentiable(log_alpha, z)
    # A CPU takes one pass for each of these, and ten times as long for torch.where.
    flowing = torch.ops.aten.hardtanh_backward(gradient * weight, z, 0, 1)  # 0 where z is 0 or 1
    curved = torch.ops.aten.sigmoid_backward(flowing, z)  # * z (1 - z), which is (z - gamma) (zeta - z) + gamma zeta
    return gradient * z, curved.div_(0.8).add_(flowing, alpha=0.1375)  # beta (zeta - gamma), -gamma zeta / 0.8


def _differentiable(log_alpha: Tensor, z: Tensor) -> Tensor:
    """The gates z as a function of log alpha, for second derivatives."""
    inside = (z > 0) & (z < 1)
    s = (z - GAMMA) / (ZETA - GAMMA)
    noise = (torch.logit(s) - log_alpha / BETA).detach()
    return torch.where(inside, torch.sigmoid(log_alpha / BETA + noise) * (ZETA - GAMMA) + GAMMA, z)


class _Kept(Function):
    """weight * z, which keeps z."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, log_alpha: Tensor, odds: Tensor) -> Tensor:
        z = _gates(log_alpha, odds)
        ctx.save_for_backward(weight, log_alpha, z)
        return weight * z

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        return *_gradients(gradient, *ctx.saved_tensors), None


class _Regenerated(Function):
    """weight * z, which keeps no more than the key of its noise."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, log_alpha: Tensor, key: Tensor, number: int) -> Tensor:
        ctx.number = number
        ctx.save_for_backward(weight, log_alpha, key)
        function = plain_product if torch.compiler.is_compiling() else product
        return function(weight, log_alpha, key, number)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        plain = torch.compiler.is_compiling() or torch.is_grad_enabled()
        function: Any = plain_gradients if plain else gradients
        return *function(gradient, *ctx.saved_tensors, ctx.number), None, None


class _RegeneratedRows(Function):
    """weight[ids] * z, which looks the rows up again."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        log_alphas: Tensor,
        weight: Tensor,
        log_alpha: Tensor,
        ids: Tensor,
        key: Tensor,
        number: int,
    ) -> Tensor:
        ctx.number = number
        ctx.save_for_backward(weight, log_alpha, ids, key)
        function = plain_product if torch.compiler.is_compiling() else product
        return function(rows, log_alphas, key, number)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, log_alpha, ids, key = ctx.saved_tensors
        plain = torch.compiler.is_compiling() or torch.is_grad_enabled()
        function: Any = plain_gradients if plain else gradients
        # By an index, which compilers compute again, as they do not an embedding's rows.
        return *function(gradient, weight[ids], log_alpha[ids], key, ctx.number), *[None] * 5


def plain_product(weight: Tensor, log_alpha: Tensor, key: Tensor, number: int) -> Tensor:
    """The twin of `product`."""
    return weight * _gates(log_alpha, _odds(log_alpha, key, number))


def plain_gradients(
    gradient: Tensor, weight: Tensor, log_alpha: Tensor, key: Tensor, number: int
) -> tuple[Tensor, Tensor]:
    """The twin of `gradients`."""
    with torch.no_grad():
        z = _gates(log_alpha, _odds(log_alpha, key, number, again=True))
    return _gradients(gradient, weight, log_alpha, z)


@torch.library.custom_op("openwork::gated", mutates_args=())
def product(weight: Tensor, log_alpha: Tensor, key: Tensor, number: int) -> Tensor:
    """Weight * z, in the weight's layout.

    Args:
        weight: float32 or float64.
        log_alpha: Of the weight's shape and dtype.
        key: As `openwork.noise.next_key` returns it, on the weight's device.
        number: See there.
    """
    out = torch.empty_like(weight)
    if _by_triton(out, weight, log_alpha):
        from openwork.kernels.triton import gates

        return gates.product(weight, log_alpha, key, number, out)
    return out.copy_(plain_product(weight, log_alpha, key, number))


@torch.library.custom_op("openwork::gated_gradients", mutates_args=())
def gradients(gradient: Tensor, weight: Tensor, log_alpha: Tensor, key: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The gradients of weight and log alpha, in their layouts.

    Args:
        gradient: That of weight * z.
        weight: This and the following as `product` takes them.
        log_alpha: See there.
        key: See there.
        number: See there.
    """
    outs = torch.empty_like(weight), torch.empty_like(log_alpha)
    if _by_triton(*outs, weight, log_alpha):
        from openwork.kernels.triton import gates

        gradient = torch.empty_like(weight).copy_(gradient) if gradient.stride() != weight.stride() else gradient
        return gates.gradients(gradient, weight, log_alpha, key, number, *outs)
    for out, found in zip(outs, plain_gradients(gradient, weight, log_alpha, key, number), strict=True):
        out.copy_(found)
    return outs


@product.register_fake
def _(weight: Tensor, log_alpha: Tensor, key: Tensor, number: int) -> Tensor:
    return torch.empty_like(weight)


@gradients.register_fake
def _(gradient: Tensor, weight: Tensor, log_alpha: Tensor, key: Tensor, number: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(weight), torch.empty_like(log_alpha)


def _by_triton(*tensors: Tensor) -> bool:
    first = tensors[0]
    return path(first.device, first.dtype).name == "Triton" and lie_alike(*tensors)


def lie_alike(*tensors: Tensor) -> bool:
    """Whether Triton's kernels may take these: `in_one_piece`, and few enough for int32."""
    return in_one_piece(*tensors) and tensors[0].numel() <= MOST
