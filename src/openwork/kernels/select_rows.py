"""The largest values of each row of a tensor, each row with a number of its own, without waiting for the device."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from openwork.kernels.digits import INTEGERS


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
        values: (rows, n), float32 or float64; of a row with NaN only their number means something.
        k: (rows,), whole numbers from 0 to n, on the device of the values.
    """
    return reach_rows(values, kth_largest_of_rows(values, k))


def reach_rows(values: Tensor, thresholds: Tensor) -> SelectedRows:
    """The values of each row that are at least its threshold.

    Args:
        values: (rows, n), float32 or float64.
        thresholds: (rows,), of the same dtype and device; NaN is reached by nothing.
    """
    lowest = torch.finfo(values.dtype).min
    mask = values >= thresholds.clamp(min=lowest)[:, None]
    levels = torch.where(thresholds >= lowest, thresholds, math.nan)
    ties = (values == levels[:, None]).sum(1)
    return SelectedRows(mask, thresholds, torch.stack([mask.sum(1), ties, values.isnan().sum(1)]))


def kth_largest_of_rows(values: Tensor, k: Tensor) -> Tensor:
    """The ``k[i]``-th largest of row i of ``values``, shape (rows,); exact.

    A bisection on the bits, read as integers of the same order: each row may have a k of its own, and on a GPU it takes
    a fraction of the time of sorting thousands of rows.

    Args:
        values: (rows, n), float32 or float64; of a row with NaN the result means nothing.
        k: (rows,), whole numbers from 0 to n, on the device of the values. For 0 it is NaN, which no value reaches.
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
