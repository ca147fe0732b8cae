"""The largest values of each row of a tensor, each row with a number of its own, without waiting for the device.

Where there are Triton's kernels, by those of `select.py`, to which a row is a tensor like any other.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from openwork.kernels import select
from openwork.kernels.digits import INTEGERS, as_found, floats_of, keys_of


class SelectedRows(NamedTuple):
    """What `select_rows` and `reach_rows` find.

    Args:
        mask: True where a value reaches its row's threshold, and never for -inf and NaN; (rows, n) bool.
        thresholds: That of each row, (rows,).
        numbers: (3, rows) int64: how many of the mask are True, how many values that may be kept equal the threshold,
            how many are NaN.
    """

    mask: Tensor
    thresholds: Tensor
    numbers: Tensor


def select_rows(values: Tensor, k: Tensor) -> SelectedRows:
    """The ``k[i]`` largest values of row i: more where others equal the threshold.

    Args:
        values: (rows, n), float32 or float64; of a row with NaN nothing but the number of NaN has a meaning.
        k: (rows,) int64, from 0 to n, on the device of the values.
    """
    if not _by_kernels(values):
        return _reach_plain(values, _kth_largest_plain(values, k))
    from openwork.kernels.triton import select as kernels

    table = kernels.table_of_rows(values)
    found = select.kth_largest_in(table, k, values.dtype)
    mask, numbers = kernels.reach_rows(table, found)
    return SelectedRows(mask, floats_of(found, values.dtype), numbers)


def reach_rows(values: Tensor, thresholds: Tensor) -> SelectedRows:
    """The values of each row that are at least its threshold.

    Args:
        values: (rows, n), float32 or float64.
        thresholds: (rows,), of the same dtype and device; NaN is reached by nothing.
    """
    if not _by_kernels(values):
        return _reach_plain(values, thresholds)
    from openwork.kernels.triton import select as kernels

    keys = keys_of(thresholds)
    keys = keys.masked_fill(thresholds.isnan(), torch.iinfo(keys.dtype).max)
    mask, numbers = kernels.reach_rows(kernels.table_of_rows(values), as_found(keys))
    return SelectedRows(mask, thresholds, numbers)


def kth_largest_of_rows(values: Tensor, k: Tensor) -> Tensor:
    """The ``k[i]``-th largest of row i, shape (rows,); exact, and NaN for k = 0.

    Args:
        values: As of `select_rows`.
        k: As there.
    """
    if not _by_kernels(values):
        return _kth_largest_plain(values, k)
    from openwork.kernels.triton import select as kernels

    return floats_of(select.kth_largest_in(kernels.table_of_rows(values), k, values.dtype), values.dtype)


def _by_kernels(values: Tensor) -> bool:
    return select.path(values.device, values.dtype).name == "Triton"


def _reach_plain(values: Tensor, thresholds: Tensor) -> SelectedRows:
    lowest = torch.finfo(values.dtype).min
    mask = values >= thresholds.clamp(min=lowest)[:, None]
    levels = torch.where(thresholds >= lowest, thresholds, math.nan)
    ties = (values == levels[:, None]).sum(1)
    return SelectedRows(mask, thresholds, torch.stack([mask.sum(1), ties, values.isnan().sum(1)]))


def _kth_largest_plain(values: Tensor, k: Tensor) -> Tensor:
    """A bisection on the bits, read as integers of the same order.

    On a GPU it takes a fraction of the time of sorting thousands of rows.
    """
    integer = INTEGERS[values.dtype]
    first, last = torch.iinfo(integer).min, torch.iinfo(integer).max
    bits = values.view(integer)
    keys = torch.where(bits < 0, bits ^ last, bits)
    found = torch.full_like(k, first, dtype=integer)
    for bit in reversed(range(8 * values.element_size())):
        higher = found + (1 << bit) if 1 << bit <= last else found - first
        found = torch.where((keys >= higher[:, None]).sum(1) >= k, higher, found)
    return torch.where(found < 0, found ^ last, found).view(values.dtype)
