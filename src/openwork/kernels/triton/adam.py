"""Steps of Adam, as parts of kernels."""

import triton
import triton.language as tl


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
