"""Kernels for inference have no gradient, and a backward pass that reaches one says so."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from openwork.kernels.paths import forward_mode

REFUSAL = (
    "a layer that accelerate converted computes no gradient; run the model under torch.no_grad(), or take "
    "dense_copy() of what accelerate returned"
)


def without_gradient(compute: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``compute(x)``, which raises where its gradient is asked for: in the backward pass, or in forward mode.

    A gradient that is left out instead would be wrong wherever another path leads to the same input, as around a
    residual block. What torch.jit traces stays without this, since it holds no operations of Python.

    Args:
        compute: What is without a gradient.
        x: Its input.

    Raises:
        RuntimeError: If forward-mode differentiation asks.
    """
    if forward_mode() and unpack_dual(x).tangent is not None:  # type: ignore[no-untyped-call]  # torch's own gap
        raise RuntimeError(REFUSAL)
    traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]  # torch's own gap
    if traced or not (x.requires_grad and torch.is_grad_enabled()):
        return compute(x)
    kind = _TransformedRefusing if torch._C._are_functorch_transforms_active() else _Refusing
    y: Tensor = kind.apply(compute(x.detach()), x)  # type: ignore[no-untyped-call]  # torch's own gap
    return y


class _Refusing(torch.autograd.Function):
    """The output, with a backward pass that raises."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        return y.detach()  # no view, which nobody may change in place

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, _refused(gradient, ctx.shape)


class _TransformedRefusing(torch.autograd.Function):
    """The same as torch.func needs it; each call takes three times as long."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, x: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.shape = inputs[1].shape

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, _refused(gradient.detach(), ctx.shape)  # an op is not differentiated there


# An op: a compiler, which traces the backward pass of what may never have one, sees nothing of the error.
@torch.library.custom_op("openwork::no_gradient", mutates_args=())
def _refused(gradient: Tensor, shape: list[int]) -> Tensor:
    raise RuntimeError(REFUSAL)


@_refused.register_fake
def _(gradient: Tensor, shape: list[int]) -> Tensor:
    return gradient.new_empty(shape)
