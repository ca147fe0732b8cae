"""Linear layers of N models at once, and their training by Adam without gradients in memory.

The weights of the N models are stacked, (N, out, in). A layer is bound by the memory that holds them: beside the
forward pass, which reads the weights, a step of Adam must read and write weights and both moments once each. So one
operation computes the weights' gradient and applies it, piece by piece.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from openwork.kernels.adam import adam_plain
from openwork.kernels.paths import Path, triton_or_plain

PRECISIONS = ("ieee", "tf32", "bf16")
"""How products are computed, always summed in float32: as they are, from 10 bits of mantissa, from bfloat16."""


def path(device: torch.device, dtype: torch.dtype) -> Path:
    """The way of all operations here; weights are float32, and ``dtype`` is that of the inputs."""
    return triton_or_plain(device, dtype)


def linear_plain(
    x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor | None, precision: str, relu: bool, dtype: torch.dtype
) -> Tensor:
    """What `stacked_linear` returns."""
    y = _product(_taken(x, rows), weight.transpose(1, 2), precision)
    if bias is not None:
        y = y + bias.unsqueeze(1)
    return (F.relu(y) if relu else y).to(dtype)


def linear_input_plain(gradient: Tensor, weight: Tensor, precision: str, dtype: torch.dtype) -> Tensor:
    """What `stacked_linear_input` returns."""
    return _product(gradient, weight, precision).to(dtype)


def linear_adam_plain(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    bias: Tensor | None,
    bias_exp_avg: Tensor | None,
    bias_exp_avg_sq: Tensor | None,
    x: Tensor,
    gradient: Tensor,
    rows: Tensor | None,
    scales: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    precision: str,
) -> None:
    """Does what `stacked_linear_adam` does."""
    settings = (scales, beta1, beta2, eps, weight_decay)
    adam_plain(weight, exp_avg, exp_avg_sq, _product(gradient.transpose(1, 2), _taken(x, rows), precision), *settings)
    if bias is not None and bias_exp_avg is not None and bias_exp_avg_sq is not None:
        adam_plain(bias, bias_exp_avg, bias_exp_avg_sq, gradient.float().sum(1), *settings)


def _taken(x: Tensor, rows: Tensor | None) -> Tensor:
    return x if rows is None else x[rows]


def _product(a: Tensor, b: Tensor, precision: str) -> Tensor:
    """``a @ b`` in float32; twins know no tf32."""
    if precision == "bf16":
        a, b = a.bfloat16(), b.bfloat16()
    return a.float() @ b.float()


@torch.library.custom_op("openwork::stacked_linear", mutates_args=())
def stacked_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor | None, precision: str, relu: bool, dtype: torch.dtype
) -> Tensor:
    """``x @ weight.T + bias`` for each of N models, (N, B, out).

    Args:
        x: (N, B, in), or (B, in) for all models; with ``rows`` a data set (D, in) that stays where it is.
        weight: (N, out, in) float32, contiguous.
        bias: (N, out), or None.
        rows: (N, B) int64, which rows of ``x`` each model has; None for all.
        precision: Of products, one of `PRECISIONS`.
        relu: Whether negative results become 0.
        dtype: Of the result.
    """
    if path(x.device, x.dtype).name == "Triton":
        from openwork.kernels.triton import stacked

        return stacked.linear(x, weight, bias, rows, precision, relu, dtype)
    return linear_plain(x, weight, bias, rows, precision, relu, dtype)


@stacked_linear.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor | None, precision: str, relu: bool, dtype: torch.dtype
) -> Tensor:
    batch = x.shape[-2] if rows is None else rows.shape[1]
    return x.new_empty(weight.shape[0], batch, weight.shape[1], dtype=dtype)


@torch.library.custom_op("openwork::stacked_linear_input", mutates_args=())
def stacked_linear_input(gradient: Tensor, weight: Tensor, precision: str, dtype: torch.dtype) -> Tensor:
    """The gradient of the input of `stacked_linear`, (N, B, in).

    Args:
        gradient: That of the result, (N, B, out).
        weight: (N, out, in) float32, contiguous.
        precision: Of products, one of `PRECISIONS`.
        dtype: Of the result.
    """
    if path(gradient.device, gradient.dtype).name == "Triton":
        from openwork.kernels.triton import stacked

        return stacked.linear_input(gradient, weight, precision, dtype)
    return linear_input_plain(gradient, weight, precision, dtype)


@stacked_linear_input.register_fake
def _(gradient: Tensor, weight: Tensor, precision: str, dtype: torch.dtype) -> Tensor:
    return gradient.new_empty(*gradient.shape[:2], weight.shape[2], dtype=dtype)


@torch.library.custom_op(
    "openwork::stacked_linear_adam",
    mutates_args=("weight", "exp_avg", "exp_avg_sq", "bias", "bias_exp_avg", "bias_exp_avg_sq"),
)
def stacked_linear_adam(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    bias: Tensor | None,
    bias_exp_avg: Tensor | None,
    bias_exp_avg_sq: Tensor | None,
    x: Tensor,
    gradient: Tensor,
    rows: Tensor | None,
    scales: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    precision: str,
) -> None:
    """Trains the layers of `stacked_linear` by a step of Adam, each model at its own rate.

    Args:
        weight: (N, out, in) float32, contiguous.
        exp_avg: Its first moment, of float32 or bfloat16.
        exp_avg_sq: Its second moment; in bfloat16 it is rounded up or down by chance, the same in every run. Where it
            is −0.0, weight and first moment become 0 whatever they were, and it stays (`openwork.kernels.adam`).
        bias: (N, out) float32, or None.
        bias_exp_avg: As of the weight.
        bias_exp_avg_sq: As of the weight.
        x: The input, as of `stacked_linear`.
        gradient: That of the result, (N, B, out).
        rows: See there.
        scales: As `openwork.kernels.adam.adam_scales` returns them for this step.
        beta1: The decay of the first moment.
        beta2: The decay of the second moment.
        eps: What is added to the root of the second moment.
        weight_decay: How much of the weight is added to its gradient.
        precision: Of products, one of `PRECISIONS`.
    """
    train = linear_adam_plain
    if path(x.device, x.dtype).name == "Triton":
        from openwork.kernels.triton import stacked

        train = stacked.linear_adam
    train(
        weight, exp_avg, exp_avg_sq, bias, bias_exp_avg, bias_exp_avg_sq, x, gradient, rows,
        scales, beta1, beta2, eps, weight_decay, precision,
    )  # fmt: skip
