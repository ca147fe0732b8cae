"""The largest values of many tensors at once, found by the digits of their bits and without waiting for the device.

A radix selection. Floats are read as unsigned integers of the same order, whose digits are settled from the highest
down: a pass counts how often each digit follows the digits that are known, and the next digit of the k-th largest value
is where the counts, summed from above, reach k. Counts may be summed over processes or over batches on the way, so that
no value leaves its place. NaN ranks below -inf, and both are never kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from openwork.kernels.paths import Path, triton_or_plain

INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}
"""The dtypes of values, and how their bits are read."""
_INFINITIES = {torch.float32: 0x7F800000, torch.float64: 0x7FF0000000000000}

Add = Callable[[Tensor], None]
"""Adds to counts, in place, those of other processes."""

_CHUNK = 1 << 18  # values of which a CPU looks at the digits at once; they stay in its cache
_FEW = 1 << 17  # values whose counts of 16 bits would take longer than numpy's vectorised quickselect


class Selected(NamedTuple):
    """What `select_largest` finds for each of T tensors.

    Args:
        masks: True where a value reaches its tensor's threshold, and never for -inf and NaN; bool.
        thresholds: The k-th largest value of each, (T,); NaN, which no value reaches, for k = 0.
        numbers: (3, T) int64: how many masks have True, how many values that may be kept equal the threshold,
            how many are NaN.
    """

    masks: list[Tensor]
    thresholds: Tensor
    numbers: Tensor


def path(device: torch.device, dtype: torch.dtype) -> Path:
    """The way of all selections; values of 16 bits are read as float32."""
    return triton_or_plain(device, torch.promote_types(dtype, torch.float32), tuple(INTEGERS))


@torch.library.custom_op("openwork::select_largest", mutates_args=())
def select_largest(values: Sequence[Tensor], keep: Sequence[int]) -> tuple[list[Tensor], Tensor, Tensor]:
    """`Selected` of the ``keep[i]`` largest values of each tensor: more where others equal the threshold.

    Args:
        values: float32 or float64, all of one dtype and on one device, of any shape.
        keep: How many of each, from 0 to their number.
    """
    if path(values[0].device, values[0].dtype).name == "Triton":
        return select_over(values, keep, None)
    return select_plain(values, keep)


@select_largest.register_fake
def _(values: Sequence[Tensor], keep: Sequence[int]) -> tuple[list[Tensor], Tensor, Tensor]:
    masks = [torch.empty_like(value, dtype=torch.bool) for value in values]
    return masks, values[0].new_empty(len(values)), values[0].new_empty(3, len(values), dtype=torch.int64)


def select_plain(values: Sequence[Tensor], keep: Sequence[int]) -> Selected:
    """What `select_largest` returns, one tensor after the other."""
    if values[0].device.type != "cpu":
        return _reach_plain(values, torch.stack([kth_largest(*pair) for pair in zip(values, keep, strict=True)]))
    masks, thresholds, numbers = zip(*map(_select_on_cpu, values, keep), strict=True)
    return Selected(list(masks), torch.tensor(thresholds, dtype=values[0].dtype), torch.tensor(numbers).t())


def select_over(values: Sequence[Tensor], keep: Sequence[int], add: Add | None) -> Selected:
    """The same by radix selection: where ``add`` is given, of the parts that are here of tensors of several processes.

    Args:
        values: As of `select_largest`.
        keep: How many of each, of all processes.
        add: Adds the counts of the others; they must all call this.
    """
    device, dtype = values[0].device, values[0].dtype
    k = on(torch.tensor(keep, dtype=torch.int64), device)
    if path(device, dtype).name == "Triton":
        from openwork.kernels.triton import select

        table = select.table(values)
        found = _radix(lambda found, shift, counts: select.count(table, found, shift, counts), k, dtype, 8, add)
        masks, numbers = select.reach(table, found)
        return Selected(masks, _floats(found, dtype), numbers)
    found = _radix(lambda found, shift, counts: _count_plain(values, found, shift, counts), k, dtype, 8, add)
    return _reach_plain(values, _floats(found, dtype))


def kth_largest(values: Tensor, k: int) -> Tensor:
    """The k-th largest of ``values``, shape (); exact, and NaN for k = 0.

    Args:
        values: Of any shape, float. NaN ranks below -inf.
        k: From 0 to the number of values.
    """
    flat = values.detach().flatten()
    if k == 0:
        return flat.new_full((), math.nan)
    if values.device.type != "cpu" or values.dtype not in INTEGERS:
        # On an H200 sort takes 0.7 of the time of topk at 90 % sparsity, and kthvalue many times more than either.
        return torch.where(flat.isnan(), -math.inf, flat).sort(descending=True).values[k - 1]
    return flat.new_tensor(_kth_on_cpu(flat, k))


def _kth_on_cpu(flat: Tensor, k: int) -> float:
    """The k-th largest, for k > 0."""
    if flat.numel() > _FEW:
        return kth_largest_of_all(lambda: [[flat]], k, flat.dtype, flat.device).item()
    array = flat.numpy()
    if math.isnan(flat.sum().item()):
        array = np.where(np.isnan(array), -np.inf, array)
    positive = array > 0
    if k <= np.count_nonzero(positive) < 0.9 * len(array):
        array = array[positive]  # many equal zeros, as masked weights are, make quickselect slow
    # numpy's vectorised quickselect takes a fifth of the time of torch's topk (benchmarks/mask_update.py).
    return float(np.partition(array, len(array) - k)[len(array) - k])


def _select_on_cpu(value: Tensor, k: int) -> tuple[Tensor, float, list[int]]:
    """Mask, threshold and numbers of one tensor; numpy compares and counts in half the time of torch."""
    flat = value.detach().flatten()
    threshold = _kth_on_cpu(flat, k) if k else math.nan
    array = value.detach().numpy()
    mask = array >= max(np.finfo(array.dtype).min, threshold) if k else np.zeros_like(array, dtype=np.bool_)
    spoiled = int(np.count_nonzero(np.isnan(array))) if math.isnan(flat.sum().item()) else 0
    ties = np.count_nonzero(array == threshold) if threshold > -math.inf else 0
    return torch.from_numpy(mask), threshold, [int(np.count_nonzero(mask)), int(ties), spoiled]


def kth_largest_plain(values: Tensor, k: int) -> Tensor:
    """The k-th largest of ``values`` (1-D) by torch.topk, on any device; the twin of `kth_largest`."""
    return values.topk(k, sorted=False).values.min()


def kth_largest_of_all(
    batches: Callable[[], Iterable[Sequence[Tensor]]],
    k: int,
    dtype: torch.dtype,
    device: torch.device,
    add: Add | None = None,
) -> Tensor:
    """The k-th largest of all tensors' values taken together, shape (); exact.

    Args:
        batches: Gives the tensors, a few at a time: for each digit once, so that they need not exist at the same time.
        k: From 1 to the number of all values.
        dtype: float32 or float64, in which the values are ranked.
        device: That of the values.
        add: As of `select_over`.
    """
    triton = path(device, dtype).name == "Triton"

    def count(found: Tensor, shift: int, counts: Tensor) -> None:
        for values in batches():
            exact = [value.to(dtype) for value in values]
            if triton:
                from openwork.kernels.triton import select

                select.count(select.table(exact), found, shift, counts)
            else:
                _count_plain(exact, found, shift, counts)

    width = 8 if triton or device.type != "cpu" or add is not None else 16
    found = _radix(count, on(torch.tensor([k]), device), dtype, width, add)
    return _floats(found, dtype)[0]


def count_reaching(values: Sequence[Tensor], threshold: Tensor) -> Tensor:
    """How many values of each tensor are above the ``threshold``, and how many equal it: (2, T) int64.

    Args:
        values: All on one device.
        threshold: Shape (), of a dtype at least as wide as theirs.
    """
    if path(threshold.device, threshold.dtype).name == "Triton":
        from openwork.kernels.triton import select

        exact = [value.to(threshold.dtype) for value in values]
        reached, ties, _ = select.reach(select.table(exact), _found(_keys(threshold.view(1))), masks=False)[1]
        return torch.stack([reached - ties, ties])
    if threshold.device.type == "cpu":
        arrays, level = [value.detach().numpy() for value in values], threshold.item()
        return torch.tensor(
            [[np.count_nonzero(part(array, level)) for array in arrays] for part in (np.greater, np.equal)]
        )
    return torch.stack([part(value, threshold).sum() for part in (torch.gt, torch.eq) for value in values]).view(2, -1)


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


def _radix(
    count: Callable[[Tensor, int, Tensor], None], k: Tensor, dtype: torch.dtype, width: int, add: Add | None
) -> Tensor:
    """The keys of the k-th largest values, (rows,)."""
    found, settle = torch.zeros_like(k), settle_plain
    if path(k.device, dtype).name == "Triton":
        from openwork.kernels.triton import select

        settle = select.settle
    for shift in reversed(range(0, 8 * dtype.itemsize, width)):
        counts = k.new_zeros(len(k), 1 << width)
        count(found, shift, counts)
        if add is not None:
            add(counts)
        settle(counts, found, k, shift)
    return found


def _count_plain(values: Sequence[Tensor], found: Tensor, shift: int, counts: Tensor) -> None:
    """Adds to ``counts`` (rows, digits) those of the digits at ``shift``; one row is for all tensors together."""
    digits = counts.shape[1]
    width = digits.bit_length() - 1
    for row, part in _parts(values, len(counts)):
        known = _keys_of(found[row], part.dtype)
        first = shift + width == 8 * part.element_size()
        keys = _keys(part)
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


def _parts(values: Sequence[Tensor], rows: int) -> Iterator[tuple[int, Tensor]]:
    """The values in pieces that stay in a CPU's cache, each with the row of its counts; small tensors of a row in one."""
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


def _reach_plain(values: Sequence[Tensor], thresholds: Tensor) -> Selected:
    lowest = torch.finfo(thresholds.dtype).min
    masks = [value >= threshold for value, threshold in zip(values, thresholds.clamp(min=lowest), strict=True)]
    levels = torch.where(thresholds >= lowest, thresholds, math.nan)
    ties = [(value == level).sum() for value, level in zip(values, levels, strict=True)]
    numbers = [mask.sum() for mask in masks] + ties + [value.isnan().sum() for value in values]
    return Selected(masks, thresholds, torch.stack(numbers).view(3, -1))


def _keys(values: Tensor) -> Tensor:
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


def _found(keys: Tensor) -> Tensor:
    """Keys as what `_radix` finds: the bits of unsigned integers of the same order, in int64."""
    least = torch.iinfo(keys.dtype).min
    return keys.long() - least if keys.dtype == torch.int32 else keys ^ least


def _keys_of(found: Tensor, dtype: torch.dtype) -> Tensor:
    """The keys of values of ``dtype`` that have been found."""
    least = torch.iinfo(INTEGERS[dtype]).min
    return (found + least).int() if INTEGERS[dtype] == torch.int32 else found ^ least


def _floats(found: Tensor, dtype: torch.dtype) -> Tensor:
    """The values that have been found; -inf for NaN, and NaN for what no value reaches."""
    keys = _keys_of(found, dtype)
    least = torch.iinfo(keys.dtype).min
    values = torch.where(keys < 0, least - keys, keys).view(dtype)
    return torch.where(keys == least, -math.inf, values)


def on(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor of the CPU on another device, without waiting for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
