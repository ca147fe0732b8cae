"""Variational dropout's variances, and its noise, with a kernel that reads mean and variance of an output once."""

from typing import Any

import torch
from torch import Tensor

from openwork.compiler import constant
from openwork.kernels.paths import Path, batched, triton_or_plain
from openwork.noise import Draw

EPS = 1e-8
"""Added to variances and to the squares of means. Code that is compiled for any batch size inside an autograd function
has the literal: torch 2.13 takes a global float for an input there, and cannot hand it to a second function."""


def path(device: torch.device, dtype: torch.dtype) -> Path:
    """Triton's kernels where they can run, else torch's operations."""
    return triton_or_plain(device, dtype)


@constant
def has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `noisy` has a kernel there."""
    return path(device, dtype).name == "Triton"


def noisy_plain(mean: Tensor, variance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """(mean + sqrt(variance + eps) * noise, its derivative by the variance), computed in float32 at least.

    Args:
        mean: Of any shape.
        variance: Of the same shape and dtype.
        noise: Standard normal, of a shape that broadcasts to that of the mean.
    """
    noise = noise.to(torch.promote_types(mean.dtype, torch.float32))
    variance = positive(variance)
    inverse = variance.rsqrt()  # one instruction of a GPU, where the root and the quotient take twenty
    std = variance.mul_(inverse)
    y = torch.addcmul(mean, std, noise) if mean.dtype == std.dtype else (mean + std * noise).to(mean.dtype)
    return y, inverse.mul_(noise).mul_(0.5).to(mean.dtype)


def positive(variance: Tensor) -> Tensor:
    """The variance + eps, in float32 at least: in less, eps underflows, and at 0 the square root has no slope."""
    return variance.to(torch.promote_types(variance.dtype, torch.float32)) + 1e-8


def noisy(mean: Tensor, variance: Tensor, draw: Draw, shared: bool, sloped: bool) -> tuple[Tensor, Tensor]:
    """What `noisy_plain` returns for a draw, by Triton's kernel, which the compiler does not look into.

    Args:
        mean: Of any shape, where `has_kernel`.
        variance: Of the same shape and dtype.
        draw: That of the noise.
        shared: Whether all positions of an example share their noise: of shape (N, 1, ..., 1, C) then.
        sloped: Whether the derivative is wanted; otherwise it has no elements.
    """
    from openwork.kernels.triton import variational

    y, slope = variational.noisy(mean, variance, draw.factor, draw.offset, shared, sloped)
    return y, slope


def variances(theta: Tensor, log_sigma2: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """sigma^2 with alpha clipped to [low, high], of ``theta``'s shape.

    alpha * theta^2 is sigma^2, so only the limits need theta: no logarithm.

    Args:
        theta: The means, float32 at least.
        log_sigma2: log sigma^2.
        low: The least alpha; with stacked models it may be a tensor, as may the next.
        high: The largest alpha.
    """
    theta2 = theta * theta + 1e-8
    return torch.exp(log_sigma2).clamp(theta2 * low, theta2 * high)


# On a CPU a new tensor of a large layer costs more than what is computed in it: below, few are made.


class Variances(torch.autograd.Function):
    """`variances`, with a gradient that needs no more than what is there anyway."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, log_sigma2: Tensor, low: float, high: float) -> Tensor:
        """As `variances`."""
        theta2 = (theta * theta).add_(1e-8)
        sigma2, limits = torch.exp(log_sigma2), (theta2 * low, theta2.mul_(high))
        # The compiler of torch 2.11 leaves out the gradient of what an operation in place returns.
        sigma2 = sigma2.clamp(*limits) if torch.compiler.is_compiling() else sigma2.clamp_(*limits)
        ctx.save_for_backward(theta, log_sigma2, sigma2)
        return sigma2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """0 by log sigma^2 where log alpha is clipped, and 0 by theta elsewhere."""
        theta, log_sigma2, sigma2 = ctx.saved_tensors
        whole = gradient * sigma2
        # 1 where nothing is clipped, up to rounding: a backward pass that is compiled alone has another exp.
        ratio = torch.exp(log_sigma2).div_(sigma2)
        # To be differentiated again, or compiled, or many gradients at once.
        if torch.is_grad_enabled() or batched(gradient):
            inside = whole * ((ratio - 1).abs() < 1e-5)
            return (whole - inside) * (2 * theta) / (theta * theta + 1e-8), inside, None, None
        inside = torch.ops.aten.hardtanh_backward(whole, ratio, 1 - 1e-5, 1 + 1e-5)  # 0 outside, in one pass
        outside = whole.sub_(inside).mul_(theta).mul_(2).div_((theta * theta).add_(1e-8))
        return outside, inside, None, None
