"""Local reparameterisation (Kingma et al. 2015, arXiv 1506.02557): noise on a layer's output instead of its weights.

An output has the variance op(x^2, sigma^2). Left to autograd, the backward pass would keep x^2, the variance, its root
and the noise. Here it keeps x, sigma^2 and one number for each output, the derivative of the noise by the variance, or
not even that: where noise is a hash, this number can be computed again, for one more product. The backward pass itself
is made of torch's operations, which a compiler fuses with those around them.
"""

from typing import Any

import torch
from torch import Tensor

from openwork.core.parameters.products import Product
from openwork.core.precision import exact
from openwork.kernels.variational import EPS, has_kernel, noisy, noisy_plain, positive
from openwork.noise import Draw, is_keyed, next_draw, normal, normal_of

_SHORT = {"convolution": 576, "matrix": 256}
"""Sums of this many terms take about as long as to write their result and to read it again. Estimates for an H200:
two bytes written and read at 4 TB/s, 600 TFLOP/s, and convolutions that wait for memory anyway; 576 are those of
3 x 3 places of 64 channels."""
_WIDE, _LAST = 4, 16
"""An output that is so many times as large as its input is most of what a layer keeps; one that is larger by the second
factor is taken for the model's last, such as the scores of a vocabulary: its backward pass comes first, so that it
would take the memory of its variances at the same time, the fullest, whether it kept or computed them."""


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a layer computes its product with ``x``."""
    kind = x.device.type
    cast = torch.is_autocast_enabled(kind) and x.dtype != torch.float64 and x.is_floating_point()
    return torch.get_autocast_dtype(kind) if cast else x.dtype


def with_noise(
    op: Product,
    mean: Tensor,
    x: Tensor,
    sigma2: Tensor,
    *,
    shared: bool,
    small: bool,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A layer's output in training: mean + sqrt(op(x^2, sigma2) + eps) * noise.

    Args:
        op: The layer's operation.
        mean: The layer's output for the weights' means.
        x: The layer's input, of the same dtype, or ids.
        sigma2: The weights' variances, of the same dtype.
        shared: Whether all positions of an example share their noise: of shape (N, 1, ..., 1, C) then.
        small: Whether the backward pass computes the variance again, and keeps x, sigma^2 and the noise's key alone.
        generator: On the mean's device; by default noise comes from a key or from torch's generator.
    """
    kernel = has_kernel(mean.device, mean.dtype) and mean.numel() < 2**31
    compiling = torch.compiler.is_compiling()
    noise, draw = None, None
    if generator is None and (small or is_keyed() or kernel):
        draw = next_draw(mean.device)
    else:
        noise, kernel = normal(noise_shape(mean.shape, shared), mean, generator), False
    again = noise is None and (small or (kernel and computes_again(mean, x, sigma2)))
    # Where the compiler may look in, what reads the output computes it again: the batch norm behind a convolution
    # and the loss behind the last layer read it several times, what follows a layer inside a Transformer once.
    kernel = kernel and not (compiling and shared)
    needs = (x.requires_grad, sigma2.requires_grad)
    output: Tensor = _Noisy.apply(mean, x, sigma2, noise, *(draw or (None, None)), op, shared, again, kernel, needs)  # type: ignore[no-untyped-call]
    return output


def noise_shape(shape: torch.Size, shared: bool) -> list[int]:
    """(N, 1, ..., 1, C) instead of (N, ..., C) where positions share their noise."""
    return [shape[0], *[1] * (len(shape) - 2), shape[-1]] if shared else list(shape)


def computes_again(mean: Tensor, x: Tensor, sigma2: Tensor) -> bool:
    """Whether variances are rather computed again than kept.

    That takes no longer where they are short sums, of not many more inputs than there are outputs; and a little longer
    where outputs are `_WIDE`, and not `_LAST`.
    """
    kind, outputs = ("convolution", mean.shape[1]) if sigma2.dim() > 2 else ("matrix", mean.shape[-1])
    if x.numel() <= 2 * mean.numel() and sigma2.numel() <= _SHORT[kind] * outputs:
        return True
    return _WIDE * x.numel() <= mean.numel() < _LAST * x.numel()


class _Noisy(torch.autograd.Function):
    """`with_noise`; the noise is given, or is that of the words of a draw."""

    @staticmethod
    def forward(
        ctx: Any,
        mean: Tensor,
        x: Tensor,
        sigma2: Tensor,
        noise: Tensor | None,
        factor: Tensor | None,
        offset: Tensor | None,
        op: Product,
        shared: bool,
        again: bool,
        kernel: bool,
        needs: tuple[bool, bool],
    ) -> Tensor:
        variance = op(_squared(x), sigma2, None)
        if kernel:
            assert factor is not None
            assert offset is not None
            y, slope = noisy(mean, variance, Draw(factor, offset), shared, not again)
        else:
            e = _noise(mean, noise, factor, offset, shared)
            y, slope = noisy_plain(mean, variance, e)
        ctx.op, ctx.shared, ctx.again, ctx.needs = op, shared, again, needs
        if again:  # stacked, so that a compiler does not take the noise for that of the forward pass, and keep it
            slope = torch.stack([factor, offset])  # type: ignore[list-item]
        ctx.save_for_backward(x, sigma2, slope)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, sigma2, slope = ctx.saved_tensors
        op: Product = ctx.op
        squares = x * x if x.is_floating_point() else x  # written unlike `_squared`, or a compiler would keep that
        if ctx.again:
            inverse = positive(op.again(squares, sigma2)).rsqrt_()
            noise = normal_of(Draw(slope[0], slope[1]), noise_shape(gradient.shape, ctx.shared), inverse)
            slope = inverse * (0.5 * noise)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            of_x, of_sigma2 = _differentiable(op, gradient, x, sigma2, slope, ctx.needs)
        else:
            of_x, of_sigma2 = op.gradients(gradient * slope.to(gradient.dtype), squares, sigma2, ctx.needs)
            of_x = None if of_x is None else 2 * x * of_x
        return gradient, of_x, of_sigma2, *[None] * 8


def _differentiable(
    op: Product, gradient: Tensor, x: Tensor, sigma2: Tensor, slope: Tensor, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients by x and sigma2, which can be differentiated again."""
    std = (exact(op(_squared(x), sigma2, None)) + EPS).sqrt()
    noise = 2 * (slope * std).detach()  # a slope that was computed again depends on x and sigma2, the noise does not
    wanted = [each for each, needed in zip((x, sigma2), needs, strict=True) if needed]
    found = iter(torch.autograd.grad((std * noise).to(gradient.dtype), wanted, gradient, create_graph=True))
    of_x, of_sigma2 = (next(found) if needed else None for needed in needs)
    return of_x, of_sigma2


def _squared(x: Tensor) -> Tensor:
    """x^2; ids stand for one-hot vectors, and x^2 = x."""
    return x.square() if x.is_floating_point() else x


def _noise(mean: Tensor, noise: Tensor | None, factor: Tensor | None, offset: Tensor | None, shared: bool) -> Tensor:
    if noise is not None:
        return noise
    assert factor is not None
    assert offset is not None
    return normal_of(Draw(factor, offset), noise_shape(mean.shape, shared), mean)
