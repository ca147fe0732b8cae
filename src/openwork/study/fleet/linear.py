"""Linear layers of stacked models, the gradients of whose weights lie in memory as the weights do.

Those of `torch.bmm` are transposed. On a CPU what is computed from a transposed and a straight tensor takes five times
as long, and the distributions of random weights compute much from them. On a GPU optimizers need straight ones, and a
copy would read and write each gradient once more.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_batchedtensor, is_functorch_wrapped_tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class StraightLinears(TorchFunctionMode):
    """Within it, `torch.nn.functional.linear` of models under `torch.func.vmap` is computed here."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Calls the function, or what stands for it."""
        if func is F.linear and not kwargs and _is_stacked(args[1]):
            x, weight, bias = (*args, None)[:3]
            return _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


def _is_stacked(weight: Tensor) -> bool:
    """Whether it is that of one vmap, and of no other transform."""
    return is_batchedtensor(weight) and not is_functorch_wrapped_tensor(get_unwrapped(weight))


class _Linear(torch.autograd.Function):
    """x (N, B, in) or (B, in), weight (N, out, in), bias (N, out) or None -> (N, B, out); under vmap, as F.linear."""

    generate_vmap_rule = False

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """One matrix product a model."""
        many, columns = x.expand(len(weight), *x.shape[-2:]), weight.transpose(1, 2)
        return many.bmm(columns) if bias is None else torch.baddbmm(bias.unsqueeze(1), many, columns)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        """Keeps what the backward pass needs."""
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients of what needs one."""
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = gradient.bmm(weight)
            of_x = of_x if x.dim() == 3 else of_x.sum(0)
        if ctx.needs_input_grad[1]:
            of_weight = gradient.transpose(1, 2).bmm(x.expand(len(weight), *x.shape[-2:]))
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum(1)
        return of_x, of_weight, of_bias

    @staticmethod
    def vmap(
        info: Any, dims: tuple[int | None, int, int | None], x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, int]:
        """The same for stacked arguments."""
        x, weight = x if dims[0] is None else x.movedim(dims[0], 0), weight.movedim(dims[1], 0)
        if bias is not None:
            bias = bias.expand(info.batch_size, -1) if dims[2] is None else bias.movedim(dims[2], 0)
        first = 0 if dims[0] is None else 1
        rows = x.shape[first:-1]
        x = x.reshape(*x.shape[:first], rows.numel(), x.shape[-1])
        y: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return y.view(info.batch_size, *rows, y.shape[-1]), 0
