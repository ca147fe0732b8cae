"""Linear layers of N models at once, and their training by Adam without gradients in memory.

The weights of the N models are stacked, (N, out, in). A layer is bound by the memory that holds them: beside the
forward pass, which reads the weights, a step of Adam must read and write weights and both moments once each. So one
operation computes the weights' gradient and applies it, piece by piece.

Adam: Kingma and Ba 2014, arXiv 1412.6980, algorithm 1, as `torch.optim.Adam` computes it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from openwork.kernels.paths import Path, triton_or_plain

PRECISIONS = ("ieee", "tf32", "bf16")
"""How products are computed, always summed in float32: as they are, from 10 bits of mantissa, from bfloat16."""


def path(device: torch.device, dtype: torch.dtype) -> Path:
    """The way of all operations here; weights are float32, and ``dtype`` is that of the inputs."""
    return triton_or_plain(device, dtype)


def adam_scales(rates: Tensor, step: Tensor, betas: tuple[float, float]) -> Tensor:
    """What a step of Adam needs of each model, (N, 3) float32: rate / (1 - β₁ᵗ), 1 / sqrt(1 - β₂ᵗ) and t.

    Args:
        rates: The learning rates, (N,).
        step: t, the number of steps when this one is completed, (N,) or (), on the device of the rates.
        betas: β₁ and β₂.
    """
    step = step.double().expand(rates.shape)
    first, second = (1 - beta**step for beta in betas)
    return torch.stack([rates / first, second.rsqrt(), step], 1).float()


def mark_masked(exp_avg_sq: Tensor, mask: Tensor) -> None:
    """Says in the second moments which weights are masked: those at −0.0, which no mean of squares is.

    So a mask takes neither memory nor time. A weight that is masked no longer starts from 0.0.

    Args:
        exp_avg_sq: The second moments, changed in place.
        mask: Of the same shape, not 0 for weights that are kept.
    """
    exp_avg_sq.copy_(torch.where(mask != 0, exp_avg_sq.abs(), -0.0))


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
    _adam(weight, exp_avg, exp_avg_sq, _product(gradient.transpose(1, 2), _taken(x, rows), precision), *settings)
    if bias is not None and bias_exp_avg is not None and bias_exp_avg_sq is not None:
        _adam(bias, bias_exp_avg, bias_exp_avg_sq, gradient.float().sum(1), *settings)


def _taken(x: Tensor, rows: Tensor | None) -> Tensor:
    return x if rows is None else x[rows]


def _product(a: Tensor, b: Tensor, precision: str) -> Tensor:
    """``a @ b`` in float32; twins know no tf32."""
    if precision == "bf16":
        a, b = a.bfloat16(), b.bfloat16()
    return a.float() @ b.float()


def _adam(
    value: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    gradient: Tensor,
    scales: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    size, scale, step = (column.view(-1, *[1] * (value.dim() - 1)) for column in scales.unbind(1))
    kept = _kept(exp_avg_sq)
    gradient = gradient + weight_decay * value
    mean = beta1 * exp_avg.float() + (1 - beta1) * gradient
    square = beta2 * exp_avg_sq.float() + (1 - beta2) * gradient * gradient
    new = value - size * mean / (square.sqrt() * scale + eps)
    value.copy_(torch.where(kept, new, 0))
    exp_avg.copy_(torch.where(kept, mean, 0))
    square = _rounded(square, step) if exp_avg_sq.dtype == torch.bfloat16 else square
    exp_avg_sq.copy_(torch.where(kept, square, exp_avg_sq))


def _kept(exp_avg_sq: Tensor) -> Tensor:
    return (exp_avg_sq != 0) | ~exp_avg_sq.signbit()


def _rounded(values: Tensor, step: Tensor) -> Tensor:
    """Values (N, ...) rounded to bfloat16 up or down by chance, with the mean of the values.

    β₂ = 0.999 moves a second moment by a thousandth of itself, and neighbours in bfloat16 are 4 to 8 thousandths apart:
    rounded to the nearest it would stand still. The noise is a hash of the place in the model and the step.
    """
    place = torch.arange(values[0].numel(), device=values.device).view(values.shape[1:])
    noise = (place * 0x9E3779B1 ^ step.long() * 0x85EBCA6B) & 0xFFFFFFFF
    noise = ((noise ^ noise >> 16) * 0x7FEB352D) & 0xFFFFFFFF
    noise = ((noise ^ noise >> 15) * 0x846CA68B) & 0xFFFFFFFF
    bits = values.view(torch.int32) + (noise >> 16).int() & -0x10000
    return torch.where(values.isnan(), values, bits.view(torch.float32)).bfloat16()


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
            is −0.0 (`mark_masked`), weight and first moment become 0 whatever they were, and it stays.
        bias: (N, out) float32, or None.
        bias_exp_avg: As of the weight.
        bias_exp_avg_sq: As of the weight.
        x: The input, as of `stacked_linear`.
        gradient: That of the result, (N, B, out).
        rows: See there.
        scales: As `adam_scales` returns them for this step.
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
