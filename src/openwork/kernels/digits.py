"""The digits of floats: keys that are integers in the order of the values, and a radix selection's two steps on them.

The plain twin of the kernels in `triton/select.py`.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}
"""The dtypes of values, and how their bits are read."""
_INFINITIES = {torch.float32: 0x7F800000, torch.float64: 0x7FF0000000000000}

_CHUNK = 1 << 18  # values of which a CPU looks at the digits at once; they stay in its cache


def count_plain(values: Sequence[Tensor], found: Tensor, shift: int, counts: Tensor) -> None:
    """Adds to ``counts`` (rows, digits) those of the digits at ``shift``; one row is for all tensors together."""
    digits = counts.shape[1]
    width = digits.bit_length() - 1
    for row, part in _parts(values, len(counts)):
        known = _found_keys(found[row], part.dtype)
        first = shift + width == 8 * part.element_size()
        keys = keys_of(part)
        zeros = len(keys) - int(keys.count_nonzero())
        if 8 * zeros > len(keys):  # adding to one count many times is slow, and masked weights are zeros
            keys = keys[keys != 0]
            if first or known >> shift + width == 0:
                counts[row, digits // 2 if first else 0] += zeros
        if not first:
            keys = keys[(keys ^ known) >> shift + width == 0]
        if keys.numel():
            count = torch.bincount(keys >> shift & digits - 1, minlength=digits)
            counts[row] += count.roll(digits // 2) if first else count  # the sign bit counts the other way


def settle_plain(counts: Tensor, found: Tensor, k: Tensor, shift: int) -> None:
    """Settles the next digit of each row: adds it to ``found``, and takes from ``k`` what lies above it.

    Args:
        counts: (rows, digits) int64, how often each digit follows those that are known.
        found: (rows,) int64, the digits that are known, in their places.
        k: (rows,) int64, the how-manieth value is looked for among those with the digits that are known.
        shift: The place of the digit.
    """
    above = counts.flip(1).cumsum(1).flip(1)
    digit = (above >= k[:, None]).sum(1) - 1
    place = digit[:, None]
    k -= (above.gather(1, place) - counts.gather(1, place))[:, 0]
    found |= digit << shift


def keys_of(values: Tensor) -> Tensor:
    """Integers in the order of the values: 0.0 and -0.0 are equal, and NaN is the lowest."""
    integer = INTEGERS[values.dtype]
    least, infinity = torch.iinfo(integer).min, _INFINITIES[values.dtype]
    bits = values.view(integer)
    wait = values.device.type == "cpu" and values.numel() > 0
    if wait and bits.amin() >= 0:
        keys = bits
    else:
        sign = bits >> 8 * values.element_size() - 1
        keys = (sign & torch.iinfo(integer).max).bitwise_xor_(bits).sub_(sign)
    if wait:
        low, high = keys.aminmax()
        if low >= -infinity and high <= infinity:
            return keys
    return torch.where((keys > infinity) | (keys < -infinity), least, keys)


def as_found(keys: Tensor) -> Tensor:
    """Keys as what `_radix` finds: the bits of unsigned integers of the same order, in int64."""
    least = torch.iinfo(keys.dtype).min
    return keys.long() - least if keys.dtype == torch.int32 else keys ^ least


def floats_of(found: Tensor, dtype: torch.dtype) -> Tensor:
    """The values that have been found; -inf for NaN, and NaN for what no value reaches."""
    keys = _found_keys(found, dtype)
    least = torch.iinfo(keys.dtype).min
    values = torch.where(keys < 0, least - keys, keys).view(dtype)
    return torch.where(keys == least, -math.inf, values)


def _found_keys(found: Tensor, dtype: torch.dtype) -> Tensor:
    """The keys of values of ``dtype`` that have been found."""
    least = torch.iinfo(INTEGERS[dtype]).min
    return (found + least).int() if INTEGERS[dtype] == torch.int32 else found ^ least


def _parts(values: Sequence[Tensor], rows: int) -> Iterator[tuple[int, Tensor]]:
    """The values in pieces that stay in a CPU's cache, each with its row of counts; small ones of one row together."""
    waiting: list[Tensor] = []
    size = 0
    for place, value in enumerate(values):
        flat = value.detach().flatten()
        if rows > 1 or flat.numel() > _CHUNK:
            pieces = torch.split(flat, _CHUNK) if flat.device.type == "cpu" else (flat,)
            yield from ((min(place, rows - 1), piece) for piece in pieces)
            continue
        waiting.append(flat)
        size += flat.numel()
        if size >= _CHUNK:
            yield 0, torch.cat(waiting)
            waiting, size = [], 0
    if waiting:
        yield 0, torch.cat(waiting)
