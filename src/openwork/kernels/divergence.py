"""The divergence of variational dropout's weights from their prior, with its gradients: one pass over all weights."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from openwork.kernels.paths import MOST, Path, batched, in_one_piece, triton_or_plain

EPS = 1e-8
"""Added to the squares of means."""
WIDEST = 80.0
"""How far log alpha may go in the kernel, which computes alpha and its inverse."""
K1, K2, K3 = 0.63576, 1.87320, 1.48695  # the fit of Molchanov et al. 2017, section 4.2


def path(device: torch.device, dtype: torch.dtype) -> Path:
    """Triton's kernel for all weights where it can run, else torch's operations, weight by weight."""
    return triton_or_plain(device, dtype, [torch.float32])


def kl(log_alpha: Tensor) -> Tensor:
    """KL(q || log-uniform) of each weight in nats, the approximation of equation 14, of ``log_alpha``'s shape.

    k1 - k1 * sigmoid(k2 + k3 * log alpha) + 0.5 * log(1 + 1 / alpha), which tends to 0 for alpha to infinity.
    """
    return K1 * torch.sigmoid(-K2 - K3 * log_alpha) + 0.5 * F.softplus(-log_alpha)  # 1 - sigmoid(x) = sigmoid(-x)


def divergence(
    thetas: Sequence[Tensor], log_sigma2s: Sequence[Tensor], clip: float, scale: Tensor, *, sloped: bool
) -> tuple[Tensor, list[Tensor]]:
    """(scale * KL, shape (); its gradients by the means and then by log sigma^2), each tensor passed over once.

    Args:
        thetas: The means of each weight, float32 at least, all on one device.
        log_sigma2s: log sigma^2 of each weight, of the same shape and dtype.
        clip: log alpha is clipped to [-clip, clip].
        scale: Of shape (), on that device.
        sloped: Whether gradients are wanted; otherwise there are none.
    """
    pairs = list(zip(thetas, log_sigma2s, strict=True))
    kernel = bool(pairs) and path(thetas[0].device, torch.float32).name == "Triton" and clip <= WIDEST
    if kernel and all(_fits(*pair) for pair in pairs):
        from openwork.kernels.triton import divergence

        return divergence.divergence(thetas, log_sigma2s, clip, scale, sloped)
    return divergence_plain(thetas, log_sigma2s, clip, scale, sloped=sloped)


def divergence_plain(
    thetas: Sequence[Tensor], log_sigma2s: Sequence[Tensor], clip: float, scale: Tensor, *, sloped: bool
) -> tuple[Tensor, list[Tensor]]:
    """What `divergence` returns."""
    values, of_theta, of_log_sigma2 = [], [], []
    for theta, log_sigma2 in zip(thetas, log_sigma2s, strict=True):
        theta2 = (theta * theta).add_(EPS)  # on a CPU a new tensor costs more than what is computed in it
        log_1_alpha = theta2.log().sub_(log_sigma2).clamp_(-clip, clip)
        fit, tail = torch.mul(log_1_alpha, K3).sub_(K2).sigmoid_(), F.softplus(log_1_alpha)
        values.append(K1 * fit.sum() + 0.5 * tail.sum())
        if sloped:
            slope = tail.neg_().expm1_().mul_(0.5 / K1 / K3).sub_(fit).addcmul_(fit, fit).mul_(scale * (K1 * K3))
            slope.mul_(log_1_alpha.abs_().lt_(clip))
            of_theta.append(theta2.reciprocal_().mul_(theta).mul_(slope).mul_(-2))
            of_log_sigma2.append(slope)
    return scale * torch.stack(values).sum(), of_theta + of_log_sigma2


class Divergence(torch.autograd.Function):
    """`divergence`, whose gradients are computed with the value and handed over in the backward pass."""

    @staticmethod
    def forward(ctx: Any, clip: float, scale: Tensor, *tensors: Tensor) -> Tensor:
        """The value; the tensors are the means and as many log sigma^2."""
        value, ctx.gradients = divergence(*_halves(tensors), clip, scale, sloped=any(ctx.needs_input_grad))
        ctx.clip = clip
        ctx.save_for_backward(scale.clone(), *tensors)  # the next step's coefficient may be written to it
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """By the means and log sigma^2."""
        scale, *tensors = ctx.saved_tensors
        if torch.is_grad_enabled():  # which asks for gradients that can be differentiated again
            alphas = [log_sigma2 - torch.log(theta * theta + EPS) for theta, log_sigma2 in _pairs(tensors)]
            total = scale * sum(kl(F.hardtanh(log_alpha, -ctx.clip, ctx.clip)).sum() for log_alpha in alphas)
            wanted = [tensor for tensor in tensors if tensor.requires_grad]
            found = iter(torch.autograd.grad(total, wanted, gradient, create_graph=True))
            return None, None, *(next(found) if tensor.requires_grad else None for tensor in tensors)
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:  # a second backward pass, of a graph that was retained
            _, gradients = divergence(*_halves(tensors), ctx.clip, scale, sloped=True)
        if batched(gradient):  # many gradients at once
            return None, None, *(each * gradient for each in gradients)
        _scale(gradients, gradient)
        return None, None, *gradients


def _halves(tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    count = len(tensors) // 2
    return tensors[:count], tensors[count:]


def _pairs(tensors: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(*_halves(tensors), strict=True))


def _scale(gradients: list[Tensor], factor: Tensor) -> None:
    """Multiplies them in place; by 1, as nearly always, without reading them."""
    if factor.device.type == "cpu":
        if factor != 1:
            torch._foreach_mul_(gradients, factor)
    elif path(factor.device, factor.dtype).name == "Triton" and all(each.dtype == torch.float32 for each in gradients):
        from openwork.kernels.triton import divergence

        divergence.scale(gradients, factor)
    else:
        torch._foreach_mul_(gradients, factor)


def _fits(theta: Tensor, log_sigma2: Tensor) -> bool:
    """Whether both are float32, `in_one_piece`, and few enough for int32."""
    alike = theta.dtype == log_sigma2.dtype == torch.float32 and in_one_piece(theta, log_sigma2)
    return alike and theta.numel() <= MOST
