"""Products with a matrix in lanes, and its unpacking: a program a group of rows, a thread a lane."""

import triton
import triton.language as tl
from torch import Tensor

from openwork.kernels.lanes import WIDEST
from openwork.kernels.triton.launching import device_of


def product(
    x: Tensor, offsets: Tensor, order: Tensor, starts: Tensor, gaps: Tensor, values: Tensor, bias: Tensor | None
) -> Tensor:
    """``x @ weight.T + bias``, computed from the packed weight, which is read once for each two rows of x.

    Args:
        x: (..., in), of the values' dtype.
        offsets: This and the following as in `openwork.kernels.lanes.Lanes`.
        order: See there.
        starts: See there.
        gaps: See there.
        values: See there.
        bias: (out,), or None.
    """
    x = x.contiguous()
    inputs, outputs = x.shape[-1], len(order)
    count = x.numel() // max(1, inputs)
    y = x.new_empty(*x.shape[:-1], outputs)
    _, group, lanes, unit = values.shape
    columns = 2 if count > 1 and x.element_size() == 2 else 1  # two fit the 4 bytes of a word
    if y.numel():
        with device_of(x):
            _product[(triton.cdiv(count, columns), len(starts))](
                x, offsets, order, starts, gaps, values, bias, y, inputs, outputs, count,
                GROUP=group, LANES=lanes, UNIT=unit, BYTES=gaps.shape[3], COLUMNS=columns,
                SHARED=triton.next_power_of_2(inputs) if inputs <= WIDEST else 0,
                UNROLL=_unroll(values, gaps, columns), num_warps=_warps(group * lanes),
            )  # fmt: skip
    return y


def unpack(offsets: Tensor, order: Tensor, starts: Tensor, gaps: Tensor, values: Tensor, inputs: int) -> Tensor:
    """The matrix (out, in).

    Args:
        offsets: This and the following as in `openwork.kernels.lanes.Lanes`.
        order: See there.
        starts: See there.
        gaps: See there.
        values: See there.
        inputs: How many columns it has.
    """
    weight = values.new_zeros(len(order), inputs)
    _, group, lanes, unit = values.shape
    if weight.numel():
        with device_of(values):
            _unpack[(len(starts),)](
                offsets, order, starts, gaps, values, weight, inputs, len(order),
                GROUP=group, LANES=lanes, UNIT=unit, BYTES=gaps.shape[3], num_warps=_warps(group * lanes),
            )  # fmt: skip
    return weight


def _unroll(values: Tensor, gaps: Tensor, columns: int) -> int:
    """How many units a lane loads at once: two, but where registers for them leave too little room on an H100."""
    crowded = gaps.shape[3] < values.shape[3] and (values.shape[2] < 32 or columns == 2)
    return 1 if crowded else 2


def _warps(cells: int) -> int:
    return max(1, cells // 32)


@triton.jit
def _product(
    x_ptr, offsets_ptr, order_ptr, starts_ptr, gaps_ptr, values_ptr, bias_ptr, y_ptr, inputs, outputs, count,
    GROUP: tl.constexpr, LANES: tl.constexpr, UNIT: tl.constexpr, BYTES: tl.constexpr, COLUMNS: tl.constexpr,
    SHARED: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * COLUMNS
    second = tl.minimum(first + COLUMNS, count) - 1
    number = tl.program_id(1)
    CELLS: tl.constexpr = GROUP * LANES
    begin = tl.load(offsets_ptr + number).to(tl.int64)
    end = tl.load(offsets_ptr + number + 1).to(tl.int64)
    column = tl.load(starts_ptr + number * CELLS + tl.arange(0, CELLS)).to(tl.int32)
    if SHARED > 0:
        kept = _keep(x_ptr, first * inputs, second * inputs, inputs, COLUMNS, SHARED)
    total = tl.zeros([CELLS, UNROLL * UNIT], tl.float32)
    other = total
    for unit in range(begin, end, UNROLL):
        columns, value, column = _load(gaps_ptr, values_ptr, unit, end, column, CELLS, UNIT, BYTES)
        if UNROLL == 2:
            more = _load(gaps_ptr, values_ptr, unit + 1, end, column, CELLS, UNIT, BYTES)
            columns, value, column = _beside(columns, more[0]), _beside(value, more[1]), more[2]
        value = value.to(tl.float32)
        if SHARED > 0:
            word = tl.gather(kept, tl.reshape(columns, [CELLS * UNROLL * UNIT]), 0)
            word = tl.reshape(word, [CELLS, UNROLL * UNIT])
            if COLUMNS == 2:
                total += value * _half(word, x_ptr)
                other += value * _half(word >> 16, x_ptr)
            else:
                total += value * word.to(tl.float32)
        else:
            total += value * tl.load(x_ptr + first * inputs + columns).to(tl.float32)
            if COLUMNS == 2:
                other += value * tl.load(x_ptr + second * inputs + columns).to(tl.float32)
    place = number * GROUP + tl.arange(0, GROUP)
    there = place < outputs
    row = tl.load(order_ptr + place, mask=there, other=0)
    _store(total, bias_ptr, y_ptr + first * outputs, row, there, GROUP, LANES)
    if COLUMNS == 2:
        _store(other, bias_ptr, y_ptr + second * outputs, row, there & (second > first), GROUP, LANES)


@triton.jit
def _load(gaps_ptr, values_ptr, unit, end, column, CELLS: tl.constexpr, UNIT: tl.constexpr, BYTES: tl.constexpr):
    """The columns and values of a unit, and the column of each lane's last value."""
    cell = tl.arange(0, CELLS)[:, None]
    at = unit * (CELLS * BYTES) + cell * BYTES + tl.arange(0, BYTES)[None, :]
    gap = tl.load(gaps_ptr + at, mask=unit < end, other=0)
    at = unit * (CELLS * UNIT) + cell * UNIT + tl.arange(0, UNIT)[None, :]
    value = tl.load(values_ptr + at, mask=unit < end, other=0)
    if BYTES < UNIT:
        gap = tl.reshape(tl.join(gap & 15, gap >> 4), [CELLS, UNIT])
    gap = gap.to(tl.int32)
    return column[:, None] + tl.cumsum(gap, 1), value, column + tl.sum(gap, 1)


@triton.jit
def _beside(first, second):
    """Two units of a lane as one."""
    return tl.reshape(tl.join(first, second), [first.shape[0], 2 * first.shape[1]])


@triton.jit
def _keep(x_ptr, first, second, inputs, COLUMNS: tl.constexpr, SHARED: tl.constexpr):
    """What `tl.gather` reads from shared memory: the inputs, of two columns as halves of words."""
    k = tl.arange(0, SHARED)
    x = tl.load(x_ptr + first + k, mask=k < inputs, other=0)
    if COLUMNS == 2:
        high = tl.load(x_ptr + second + k, mask=k < inputs, other=0)
        high = high.to(tl.int16, bitcast=True).to(tl.int32)
        x = (x.to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF) | (high << 16)
    return x


@triton.jit
def _half(word, x_ptr):
    return word.to(tl.int16).to(x_ptr.dtype.element_ty, bitcast=True).to(tl.float32)


@triton.jit
def _store(total, bias_ptr, y_ptr, row, there, GROUP: tl.constexpr, LANES: tl.constexpr):
    y = tl.sum(tl.reshape(tl.sum(total, 1), [GROUP, LANES]), 1)
    if bias_ptr is not None:
        y += tl.load(bias_ptr + row, mask=there, other=0).to(tl.float32)
    tl.store(y_ptr + row, y.to(y_ptr.dtype.element_ty), mask=there)


@triton.jit
def _unpack(
    offsets_ptr, order_ptr, starts_ptr, gaps_ptr, values_ptr, weight_ptr, inputs, outputs,
    GROUP: tl.constexpr, LANES: tl.constexpr, UNIT: tl.constexpr, BYTES: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0)
    CELLS: tl.constexpr = GROUP * LANES
    begin = tl.load(offsets_ptr + number).to(tl.int64)
    end = tl.load(offsets_ptr + number + 1).to(tl.int64)
    column = tl.load(starts_ptr + number * CELLS + tl.arange(0, CELLS)).to(tl.int32)
    place = number * GROUP + tl.arange(0, CELLS) // LANES
    row = tl.load(order_ptr + place, mask=place < outputs, other=0).to(tl.int64) * inputs
    for unit in range(begin, end, 2):
        columns, value, column = _load(gaps_ptr, values_ptr, unit, end, column, CELLS, UNIT, BYTES)
        more = _load(gaps_ptr, values_ptr, unit + 1, end, column, CELLS, UNIT, BYTES)
        columns, value, column = _beside(columns, more[0]), _beside(value, more[1]), more[2]
        target = weight_ptr + row[:, None] + columns
        if BYTES < UNIT:
            # Neighbours of stretches are in the same lane: flat, threads that run side by side write them.
            target, value = tl.reshape(target, [2 * CELLS * UNIT]), tl.reshape(value, [2 * CELLS * UNIT])
        tl.store(target, value, mask=value != 0)
