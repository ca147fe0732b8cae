"""The largest values of many tensors at once, found by the digits of their bits and without waiting for the device.

A radix selection. Floats are read as unsigned integers of the same order, whose digits are settled from the highest
down: a pass counts how often each digit follows the digits that are known, and the next digit of the k-th largest value
is where the counts, summed from above, reach k. Counts may be summed over processes or over batches on the way, so that
no value leaves its place. NaN ranks below -inf, and both are never kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from openwork.kernels.digits import INTEGERS, as_found, count_plain, floats_of, keys_of, settle_plain
from openwork.kernels.paths import Path, triton_or_plain

if TYPE_CHECKING:
    from openwork.kernels.triton.select import Table

Add = Callable[[Tensor], None]
"""Adds to counts, in place, those of other processes."""

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


def select(values: Sequence[Tensor], keep: Sequence[int], add: Add | None = None) -> Selected:
    """`select_over` where ``add`` is given, otherwise what `select_largest` returns: an op in compiled code alone."""
    if add is None and values[0].is_cuda and torch.compiler.is_compiling():
        return Selected(*select_largest(values, keep))
    return _select_here(values, keep, add)


def _select_here(values: Sequence[Tensor], keep: Sequence[int], add: Add | None) -> Selected:
    if add is not None or path(values[0].device, values[0].dtype).name == "Triton":
        return select_over(values, keep, add)
    return select_plain(values, keep)


@torch.library.custom_op("openwork::select_largest", mutates_args=())
def select_largest(values: Sequence[Tensor], keep: Sequence[int]) -> tuple[list[Tensor], Tensor, Tensor]:
    """`Selected` of the ``keep[i]`` largest values of each tensor: more where others equal the threshold.

    Args:
        values: float32 or float64, all of one dtype and on one device, of any shape.
        keep: How many of each, from 0 to their number.
    """
    return _select_here(values, keep, None)


@select_largest.register_fake
def _(values: Sequence[Tensor], keep: Sequence[int]) -> tuple[list[Tensor], Tensor, Tensor]:
    masks = [torch.empty_like(value, dtype=torch.bool) for value in values]
    return masks, values[0].new_empty(len(values)), values[0].new_empty(3, len(values), dtype=torch.int64)


def select_plain(values: Sequence[Tensor], keep: Sequence[int]) -> Selected:
    """What `select_largest` returns, one tensor after the other."""
    if values[0].device.type != "cpu":
        return _reach_plain(values, torch.stack([kth_largest(*pair) for pair in zip(values, keep, strict=True)]))
    masks, thresholds, numbers = zip(*map(_select_on_cpu, values, keep), strict=True)
    table = torch.from_numpy(np.array(numbers, dtype=np.int64).T)  # in a third of the time of torch.tensor
    return Selected(list(masks), torch.tensor(thresholds, dtype=values[0].dtype, device="cpu"), table)


def select_over(values: Sequence[Tensor], keep: Sequence[int], add: Add | None) -> Selected:
    """The same by radix selection: where ``add`` is given, of the parts that are here of tensors of several processes.

    Args:
        values: As of `select_largest`.
        keep: How many of each, of all processes.
        add: Adds the counts of the others; they must all call this.
    """
    device, dtype = values[0].device, values[0].dtype
    k = on(torch.tensor(keep, dtype=torch.int64, device="cpu"), device)
    if path(device, dtype).name == "Triton":
        from openwork.kernels.triton import select

        table = select.table(values)
        found = kth_largest_in(table, k, dtype, add)
        masks, numbers = select.reach(table, found)
        return Selected(masks, floats_of(found, dtype), numbers)
    found = _radix(lambda found, shift, counts: count_plain(values, found, shift, counts), k, dtype, 8, add)
    return _reach_plain(values, floats_of(found, dtype))


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
    return flat.new_tensor(_kth_on_cpu(_array(flat)[0], k))


def _array(flat: Tensor) -> tuple[Any, int]:
    """The values as an array, with -inf in the place of NaN, and how many are NaN."""
    array = flat.numpy()
    if not math.isnan(flat.sum().item()):  # inf - inf is NaN too, hence the closer look
        return array, 0
    spoiled = np.isnan(array)
    return np.where(spoiled, -np.inf, array), int(np.count_nonzero(spoiled))


def _kth_on_cpu(array: Any, k: int) -> float:
    """The k-th largest of an array without NaN, for k > 0."""
    positive = array > 0
    if k <= np.count_nonzero(positive) < 0.9 * len(array):
        array = array[positive]  # many equal zeros, as masked weights are, make quickselect slow
    if len(array) > _FEW:
        values = torch.from_numpy(array)
        return kth_largest_of_all(lambda: [[values]], k, values.dtype, values.device).item()
    # numpy's vectorised quickselect takes a fifth of the time of torch's topk (benchmarks/mask_update.py).
    return float(np.partition(array, len(array) - k)[len(array) - k])


def _select_on_cpu(value: Tensor, k: int) -> tuple[Tensor, float, list[int]]:
    """Mask, threshold and numbers of one tensor; numpy compares and counts in half the time of torch."""
    flat, spoiled = _array(value.detach().flatten())
    threshold = _kth_on_cpu(flat, k) if k else math.nan
    array = value.detach().numpy()
    mask = array >= max(np.finfo(array.dtype).min, threshold) if k else np.zeros_like(array, dtype=np.bool_)
    ties = np.count_nonzero(array == threshold) if threshold > -math.inf else 0
    return torch.from_numpy(np.asarray(mask)), threshold, [int(np.count_nonzero(mask)), int(ties), spoiled]


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
                count_plain(exact, found, shift, counts)

    width = 8 if triton or device.type != "cpu" or add is not None else 16
    found = _radix(count, on(torch.tensor([k], device="cpu"), device), dtype, width, add)
    return floats_of(found, dtype)[0]


def count_reaching(values: Sequence[Tensor], threshold: Tensor) -> Tensor:
    """How many values of each tensor are above the ``threshold``, and how many equal it: (2, T) int64.

    Args:
        values: All on one device.
        threshold: Shape (), of a dtype at least as wide as theirs.
    """
    if path(threshold.device, threshold.dtype).name == "Triton":
        from openwork.kernels.triton import select

        exact = [value.to(threshold.dtype) for value in values]
        reached, ties, _ = select.reach(select.table(exact), as_found(keys_of(threshold.view(1))), masks=False)[1]
        return torch.stack([reached - ties, ties])
    if threshold.device.type == "cpu":
        exact = [value.detach() if value.dtype in INTEGERS else value.detach().float() for value in values]
        arrays, level = [value.numpy() for value in exact], threshold.item()
        return torch.tensor(
            [[np.count_nonzero(part(array, level)) for array in arrays] for part in (np.greater, np.equal)],
            device="cpu",
        )
    return torch.stack([part(value, threshold).sum() for part in (torch.gt, torch.eq) for value in values]).view(2, -1)


def kth_largest_in(table: Table, k: Tensor, dtype: torch.dtype, add: Add | None = None) -> Tensor:
    """The keys of the ``k[i]``-th largest value of each tensor of a table of the kernels, (T,).

    Args:
        table: The tensors.
        k: (T,) int64.
        dtype: That of the tensors.
        add: As of `select_over`.
    """
    from openwork.kernels.triton import select

    return _radix(lambda found, shift, counts: select.count(table, found, shift, counts), k.clone(), dtype, 8, add)


def _radix(
    count: Callable[[Tensor, int, Tensor], None], k: Tensor, dtype: torch.dtype, width: int, add: Add | None
) -> Tensor:
    """The keys of the k-th largest values, (rows,); ``k`` is used up."""
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


def _reach_plain(values: Sequence[Tensor], thresholds: Tensor) -> Selected:
    lowest = torch.finfo(thresholds.dtype).min
    masks = [value >= threshold for value, threshold in zip(values, thresholds.clamp(min=lowest), strict=True)]
    levels = torch.where(thresholds >= lowest, thresholds, math.nan)
    ties = [(value == level).sum() for value, level in zip(values, levels, strict=True)]
    numbers = [mask.sum() for mask in masks] + ties + [value.isnan().sum() for value in values]
    return Selected(masks, thresholds, torch.stack(numbers).view(3, -1))


def on(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor of the CPU on another device, without waiting for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
