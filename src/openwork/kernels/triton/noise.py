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
    log = 0.04487357661128044 * mantissa - 0.4165634214878082
    log = log * mantissa + 1.6311479806900024
    log = log * mantissa - 3.5507917404174805
    log = log * mantissa + 5.091710090637207
    log = log * mantissa - 132.30036926269531  # 2.5 + 127 of the exponent
    far = tl.sqrt(-log - (bits >> 23).to(tl.float32)) - 3.0
    found = -0.00018443989392835647 * far + 0.0006062140455469489
    found = found * far + 0.0011614285176619887
    found = found * far - 0.006229214370250702
    found = found * far + 0.0011542575666680932
    found = found * far + 0.028886733576655388
    found = found * far - 0.06089354678988457
    found = found * far + 0.03659551218152046
    found = found * far + 1.2996511459350586
    found = found * far + 2.789299488067627
    return found * x
