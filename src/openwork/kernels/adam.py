"""Steps of Adam for N models at once, each at its own learning rate, which know what is masked.

Kingma and Ba 2014, arXiv 1412.6980, algorithm 1, as `torch.optim.Adam` computes it. The second moments say which
weights are masked, so that nobody masks a gradient: memory bounds such a step, and a gradient would be read and written
once more.
"""

import torch
from torch import Tensor

from openwork.kernels.paths import Path, triton_or_plain


def path(device: torch.device, dtype: torch.dtype) -> Path:
    """The way of a step; all tensors are float32, and so is ``dtype``."""
    return triton_or_plain(device, dtype, [torch.float32])


def adam_scales(rates: Tensor, step: Tensor, betas: tuple[float, float]) -> Tensor:
    """What a step of Adam needs of each model, (..., N, 3) float32: rate / (1 - β₁ᵗ), 1 / sqrt(1 - β₂ᵗ) and t.

    Args:
        rates: The learning rates, (N,).
        step: t, the number of steps when this one is completed, (..., N) or (..., 1), on the device of the rates.
        betas: β₁ and β₂.
    """
    step = step.double().expand(*step.shape[:-1], len(rates))
    first, second = (1 - beta**step for beta in betas)
    return torch.stack([rates / first, second.rsqrt(), step], -1).float()


def mark_masked(exp_avg_sq: Tensor, mask: Tensor) -> None:
    """Says in the second moments which weights are masked: those at −0.0, which no mean of squares is.

    So a mask takes neither memory nor time. A weight that is masked no longer starts from 0.0.

    Args:
        exp_avg_sq: The second moments, changed in place.
        mask: Of the same shape, not 0 for weights that are kept.
    """
    exp_avg_sq.copy_(torch.where(mask != 0, exp_avg_sq.abs(), -0.0))


def adam_plain(
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
    """Does what `stacked_adam` does."""
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


@torch.library.custom_op("openwork::stacked_adam", mutates_args=("value", "exp_avg", "exp_avg_sq"))
def stacked_adam(
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
    """Moves a parameter of N models by a step of Adam, each at its own rate.

    Args:
        value: (N, *shape) float32, contiguous, as are the tensors that follow.
        exp_avg: Its first moment.
        exp_avg_sq: Its second moment. Where it is −0.0 (`mark_masked`), value and first moment become 0 whatever they
            were, and it stays.
        gradient: Its gradient.
        scales: As `adam_scales` returns them for this step.
        beta1: The decay of the first moment.
        beta2: The decay of the second moment.
        eps: What is added to the root of the second moment.
        weight_decay: How much of the value is added to its gradient.
    """
    train = adam_plain
    if path(value.device, value.dtype).name == "Triton":
        from openwork.kernels.triton import adam

        train = adam.adam
    train(value, exp_avg, exp_avg_sq, gradient, scales, beta1, beta2, eps, weight_decay)
