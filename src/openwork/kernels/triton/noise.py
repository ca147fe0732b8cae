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
    return erfinv(middles24(bits)) * 1.4142135623730951


@triton.jit
def erfinv(x):
    """The inverse of the error function: M. Giles, Approximating the erfinv function, GPU Computing Gems 2, 2011."""
    w = -tl.log((1.0 - x) * (1.0 + x))
    v = w - 2.5
    centre = 2.81022636e-08 * v + 3.43273939e-07
    centre = centre * v - 3.5233877e-06
    centre = centre * v - 4.39150654e-06
    centre = centre * v + 0.00021858087
    centre = centre * v - 0.00125372503
    centre = centre * v - 0.00417768164
    centre = centre * v + 0.246640727
    centre = centre * v + 1.50140941
    v = tl.sqrt(w) - 3.0
    tail = -0.000200214257 * v + 0.000100950558
    tail = tail * v + 0.00134934322
    tail = tail * v - 0.00367342844
    tail = tail * v + 0.00573950773
    tail = tail * v - 0.0076224613
    tail = tail * v + 0.00943887047
    tail = tail * v + 1.00167406
    tail = tail * v + 2.83297682
    return tl.where(w < 5.0, centre, tail) * x
