"""Steps of Adam: a program moves some numbers of one model."""

import triton
import triton.language as tl
from torch import Tensor

from openwork.kernels.triton.launching import device_of

BLOCK = 1024
"""Numbers that a program moves."""


def adam(
    value: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, gradient: Tensor, scales: Tensor,
    beta1: float, beta2: float, eps: float, weight_decay: float,
) -> None:  # fmt: skip
    """A step of Adam; arguments as of `openwork.kernels.adam.stacked_adam`."""
    if not value.numel():
        return
    size = value[0].numel()
    block = min(BLOCK, triton.next_power_of_2(size))
    with device_of(value):
        _adam[(len(value) * triton.cdiv(size, block),)](
            value, exp_avg, exp_avg_sq, gradient, scales, SIZE=size,
            BETA1=beta1, BETA2=beta2, EPS=eps, DECAY=weight_decay, BLOCK=block, num_warps=4,
        )  # fmt: skip


@triton.jit
def _adam(
    value_ptr, exp_avg_ptr, exp_avg_sq_ptr, gradient_ptr, scales_ptr, SIZE: tl.constexpr,
    BETA1: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr, DECAY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    MASKED: tl.constexpr = -0x80000000  # the bits of -0.0
    BLOCKS: tl.constexpr = (SIZE + BLOCK - 1) // BLOCK
    member = (tl.program_id(0) // BLOCKS).to(tl.int64)
    place = tl.program_id(0) % BLOCKS * BLOCK + tl.arange(0, BLOCK)
    there = place < SIZE
    size = tl.load(scales_ptr + member * 3)
    scale = tl.load(scales_ptr + member * 3 + 1)
    start = member * SIZE
    value = tl.load(value_ptr + start + place, mask=there, other=0)
    mean = tl.load(exp_avg_ptr + start + place, mask=there, other=0)
    square = tl.load(exp_avg_sq_ptr + start + place, mask=there, other=0)
    gradient = tl.load(gradient_ptr + start + place, mask=there, other=0)
    kept = square.to(tl.int32, bitcast=True) != MASKED
    value, mean, new = moved(value, mean, square, gradient, size, scale, BETA1, BETA2, EPS, DECAY)
    tl.store(value_ptr + start + place, tl.where(kept, value, 0.0), mask=there)
    tl.store(exp_avg_ptr + start + place, tl.where(kept, mean, 0.0), mask=there)
    tl.store(exp_avg_sq_ptr + start + place, tl.where(kept, new, square), mask=there)


@triton.jit
def moved(
    value, mean, square, gradient, size, scale,
    BETA1: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr, DECAY: tl.constexpr,
):  # fmt: skip
    """The new value and its moments; all float32."""
    if DECAY != 0:
        gradient += DECAY * value
    mean = BETA1 * mean + (1 - BETA1) * gradient
    square = BETA2 * square + (1 - BETA2) * gradient * gradient
    return value - size * mean / (tl.sqrt(square) * scale + EPS), mean, square


@triton.jit
def rounded(values, place, step):
    """Rounded to bfloat16 up or down by chance, as `openwork.kernels.adam` does."""
    noise = place.to(tl.uint32) * 0x9E3779B1 ^ step.to(tl.uint32) * 0x85EBCA6B
    noise = (noise ^ (noise >> 16)) * 0x7FEB352D
    noise = (noise ^ (noise >> 15)) * 0x846CA68B
    bits = (values.to(tl.uint32, bitcast=True) + (noise >> 16)) >> 16
    short = bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return tl.where(values == values, short, values.to(tl.bfloat16))  # the sum of a NaN may be a number
