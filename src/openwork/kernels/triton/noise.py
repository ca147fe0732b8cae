"""openwork's noise in Triton: the numbers of `openwork.noise`, up to rounding, for a place and the words of a draw."""

import triton
import triton.language as tl


@triton.jit
def hashed(place, factor, offset):
    """A random uint32 for each place: lowbias32 of ``place * factor + offset``."""
    x = (place.to(tl.int32) * factor + offset).to(tl.uint32, bitcast=True)
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def middles24(bits):
    """The middles of 2^24 intervals of (-1, 1), all exact: `openwork.noise.middles_of`."""
    return (bits.to(tl.int32, bitcast=True) >> 8).to(tl.float32) * 1.1920928955078125e-07 + 5.9604644775390625e-08


@triton.jit
def normal24(bits):
    """Standard normal noise with 2^24 values."""
    return normal_quantile(middles24(bits))


@triton.jit
def normal_quantile(x):
    """`openwork.quantile.normal_quantile`, for x in (-1, 1): that of the normal distribution at (1 + x) / 2."""
    y = (1.0 - x) * (1.0 + x)
    bits = y.to(tl.int32, bitcast=True)
    mantissa = ((bits & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)
    log = 0.08161544799804688 * mantissa - 0.6451404094696045
    log = log * mantissa + 2.120671033859253
    log = log * mantissa - 3.070087194442749
    log = log * mantissa + 132.91285705566406
    far = tl.sqrt(log - bits.to(tl.float32) * 1.1920928955078125e-07) - 3.0
    found = 0.0018070712685585022 * far - 0.01052798517048359
    found = found * far + 0.013462567701935768
    found = found * far + 0.034531522542238235
    found = found * far - 0.11739939451217651
    found = found * far + 0.08442139625549316
    found = found * far + 1.4075042009353638
    found = found * far + 2.3601038455963135
    return found * x
