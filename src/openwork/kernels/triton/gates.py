"""Weights times hard-concrete gates, and their gradients, in one pass each; see kernels/gates.py."""

import triton
import triton.language as tl
from torch import Tensor

from openwork.kernels.triton.launching import device_of
from openwork.kernels.triton.noise import hashed, middles24

BLOCK = 1024


def product(weight: Tensor, log_alpha: Tensor, key: Tensor, number: int, out: Tensor) -> Tensor:
    """``out``, filled with weight * z; all tensors lie alike, in one piece, straight or with channels last."""
    if weight.numel():
        with device_of(weight):
            _product[(triton.cdiv(weight.numel(), BLOCK),)](
                weight, log_alpha, key, number, out, weight.numel(), *_order(weight), BLOCK=BLOCK
            )
    return out


def gradients(
    gradient: Tensor,
    weight: Tensor,
    log_alpha: Tensor,
    key: Tensor,
    number: int,
    of_weight: Tensor,
    of_log_alpha: Tensor,
) -> tuple[Tensor, Tensor]:
    """``of_weight`` and ``of_log_alpha``, filled; all tensors lie alike, as for `product`."""
    if weight.numel():
        with device_of(weight):
            _gradients[(triton.cdiv(weight.numel(), BLOCK),)](
                gradient, weight, log_alpha, key, number, of_weight, of_log_alpha, weight.numel(),
                *_order(weight), BLOCK=BLOCK,
            )  # fmt: skip
    return of_weight, of_log_alpha


def _order(tensor: Tensor) -> tuple[int, int]:
    """(channels, size of each) of a tensor with channels last, whose places are not in the order of its memory."""
    if tensor.is_contiguous():
        return 1, 1
    return tensor.shape[1], tensor[0, 0].numel()


@triton.jit
def _product(
    weight_ptr, log_alpha_ptr, key_ptr, number, out_ptr, count, channels, size, BLOCK: tl.constexpr
):  # fmt: skip
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = at < count
    s = _concrete(log_alpha_ptr, key_ptr, number, at, there, channels, size)
    weight = tl.load(weight_ptr + at, mask=there, other=0)
    tl.store(out_ptr + at, weight * _clipped(1.2 * s - 0.1), mask=there)


@triton.jit
def _gradients(
    gradient_ptr, weight_ptr, log_alpha_ptr, key_ptr, number, of_weight_ptr, of_log_alpha_ptr, count,
    channels, size, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = at < count
    s = _concrete(log_alpha_ptr, key_ptr, number, at, there, channels, size)
    gradient = tl.load(gradient_ptr + at, mask=there, other=0)
    weight = tl.load(weight_ptr + at, mask=there, other=0)
    inside = 1.2 * s - 0.1
    tl.store(of_weight_ptr + at, gradient * _clipped(inside), mask=there)
    slope = tl.where((inside > 0) & (inside < 1), 1.8 * (s - s * s), 0.0)
    tl.store(of_log_alpha_ptr + at, gradient * weight * slope, mask=there)


@triton.jit
def _concrete(log_alpha_ptr, key_ptr, number, at, there, channels, size):
    """The values s of the gates at these places of memory."""
    row = channels * size
    inner = at % row
    place = at - inner + inner % channels * size + inner // channels
    word = tl.load(key_ptr) ^ number
    middle = middles24(hashed(place, word.to(tl.int32) | 1, (word >> 32).to(tl.int32)))
    odds = (1.0 - middle) / (1.0 + middle)
    log_alpha = tl.load(log_alpha_ptr + at, mask=there, other=0)
    return 1.0 / (1.0 + tl.exp(-1.5 * log_alpha) * odds * tl.sqrt(odds))


@triton.jit
def _clipped(x):
    """NaN stays, as it does in torch."""
    return tl.where(x < 0.0, 0.0, tl.where(x > 1.0, 1.0, x))
