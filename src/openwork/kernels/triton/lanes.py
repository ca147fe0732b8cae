"""Products with, and unpacking of, a matrix in lanes, by one program a group of rows."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_COLUMNS = 4  # of one program: they share what decoding costs
_UNROLL = 4  # units whose loads are in flight at once


def product(x: Tensor, offsets: Tensor, order: Tensor, gaps: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ weight.T + bias``, computed from the packed weight for each row of x.

    Args:
        x: (..., in), of the values' dtype.
        offsets: As in `openwork.kernels.lanes.Lanes`.
        order: Likewise.
        gaps: Likewise.
        values: Likewise.
        bias: (out,), or None.
    """
    x = x.contiguous()
    count, outputs = x.numel() // max(1, x.shape[-1]), len(order)
    y = x.new_empty(*x.shape[:-1], outputs)
    _, group, lanes, unit = gaps.shape
    columns = min(_COLUMNS, triton.next_power_of_2(count))
    if y.numel():
        with _device(x):
            _product[(triton.cdiv(count, columns), len(offsets) - 1)](
                x, offsets, order, gaps, values, bias, y, x.shape[-1], outputs, count,
                GROUP=group, LANES=lanes, UNIT=unit, UNROLL=_UNROLL, COLUMNS=columns, num_warps=_warps(group * lanes),
            )  # fmt: skip
    return y


def unpack(offsets: Tensor, order: Tensor, gaps: Tensor, values: Tensor, inputs: int) -> Tensor:
    """The matrix (out, in).

    Args:
        offsets: As in `openwork.kernels.lanes.Lanes`.
        order: Likewise.
        gaps: Likewise.
        values: Likewise.
        inputs: How many columns it has.
    """
    weight = values.new_zeros(len(order), inputs)
    _, group, lanes, unit = gaps.shape
    if weight.numel():
        with _device(values):
            _unpack[(len(offsets) - 1,)](
                offsets, order, gaps, values, weight, inputs, len(order),
                GROUP=group, LANES=lanes, UNIT=unit, num_warps=_warps(group * lanes),
            )  # fmt: skip
    return weight


def _warps(cells: int) -> int:
    return max(1, cells // 32)


def _device(tensor: Tensor) -> torch.cuda.device:
    """Where Triton launches: it takes the current device, not that of its arguments."""
    return torch.cuda.device(tensor.device if tensor.is_cuda else -1)


@triton.jit
def _product(
    x_ptr, offsets_ptr, order_ptr, gaps_ptr, values_ptr, bias_ptr, y_ptr, inputs, outputs, count,
    GROUP: tl.constexpr, LANES: tl.constexpr, UNIT: tl.constexpr, UNROLL: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * COLUMNS
    number = tl.program_id(1)
    CELLS: tl.constexpr = GROUP * LANES
    begin = tl.load(offsets_ptr + number).to(tl.int64)
    end = tl.load(offsets_ptr + number + 1).to(tl.int64)
    cell = tl.arange(0, CELLS)[:, None] * UNIT + tl.arange(0, UNIT)[None, :]
    column = tl.zeros([CELLS], tl.int32)
    sums = (tl.zeros([CELLS, UNIT], tl.float32),) * COLUMNS
    for start in range(begin, end, UNROLL):
        for step in tl.static_range(UNROLL):
            at = (start + step) * (CELLS * UNIT) + cell
            gap = tl.load(gaps_ptr + at, mask=start + step < end, other=0).to(tl.int32)
            value = tl.load(values_ptr + at, mask=start + step < end, other=0).to(tl.float32)
            columns = column[:, None] + tl.cumsum(gap, 1)
            column += tl.sum(gap, 1)
            new = ()
            for c in tl.static_range(COLUMNS):
                row = tl.minimum(first + c, count - 1)
                new += (sums[c] + value * tl.load(x_ptr + row * inputs + columns).to(tl.float32),)
            sums = new
    place = number * GROUP + tl.arange(0, GROUP)
    there = place < outputs
    target = tl.load(order_ptr + place, mask=there, other=0)
    for c in tl.static_range(COLUMNS):
        total = tl.sum(tl.reshape(tl.sum(sums[c], 1), [GROUP, LANES]), 1)
        if bias_ptr is not None:
            total += tl.load(bias_ptr + target, mask=there, other=0).to(tl.float32)
        tl.store(y_ptr + (first + c) * outputs + target, total.to(y_ptr.dtype.element_ty), mask=there & (first + c < count))


@triton.jit
def _unpack(
    offsets_ptr, order_ptr, gaps_ptr, values_ptr, weight_ptr, inputs, outputs,
    GROUP: tl.constexpr, LANES: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0)
    CELLS: tl.constexpr = GROUP * LANES
    begin = tl.load(offsets_ptr + number).to(tl.int64)
    end = tl.load(offsets_ptr + number + 1).to(tl.int64)
    place = number * GROUP + tl.arange(0, CELLS) // LANES
    row = tl.load(order_ptr + place, mask=place < outputs, other=0).to(tl.int64) * inputs
    cell = tl.arange(0, CELLS)[:, None] * UNIT + tl.arange(0, UNIT)[None, :]
    column = tl.zeros([CELLS], tl.int32)
    for unit in range(begin, end):
        at = unit * (CELLS * UNIT) + cell
        gap = tl.load(gaps_ptr + at).to(tl.int32)
        value = tl.load(values_ptr + at)
        tl.store(weight_ptr + row[:, None] + column[:, None] + tl.cumsum(gap, 1), value, mask=value != 0)
        column += tl.sum(gap, 1)
