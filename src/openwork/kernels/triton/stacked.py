"""Stacked Linear layers: a program a tile of one model's layer; programs of a model run together and share caches."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from openwork.kernels.triton.adam import moved, rounded
from openwork.kernels.triton.launching import device_of


class Tile(NamedTuple):
    """What a program computes, and how.

    Args:
        outputs: Of a layer's outputs.
        inputs: Of its inputs.
        warps: Of a program.
        stages: How many pieces of a sum, or tiles, are on their way at a time.
        tiles: How many tiles a program computes one after the other; in `linear_adam` alone.
    """

    outputs: int = 64
    inputs: int = 64
    warps: int = 4
    stages: int = 1
    tiles: int = 1


# The fastest of those that were tried on an H200 for 784-300-100-10, batches of 100 and products in bf16.
LINEAR = Tile(stages=3)
LINEAR_INPUT = Tile(outputs=128, warps=8)
ADAM = Tile(outputs=16, stages=2, tiles=13)
ADAM_NARROW = Tile(inputs=32, stages=2, tiles=13)
NARROW = 512
"""Layers with fewer inputs are trained by `ADAM_NARROW`."""

_BATCH = 128  # rows of a batch at a time
# The same for a sum over the batch: more rows of exact products would not fit the registers.
_BATCHES = {"bf16": 128, "tf32": 128, "ieee": 32}


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor | None, precision: str, relu: bool, dtype: torch.dtype
) -> Tensor:
    """``x @ weight.T + bias`` for each model; arguments as of `openwork.kernels.stacked.stacked_linear`."""
    members, outputs, inputs = weight.shape
    x, batch = _last_contiguous(x), x.shape[-2] if rows is None else rows.shape[1]
    y = x.new_empty(members, batch, outputs, dtype=dtype)
    tile, rows_of = _fitted(LINEAR, outputs, inputs), min(_BATCH, _size(batch))
    grid = members * triton.cdiv(outputs, tile.outputs) * triton.cdiv(batch, rows_of)
    if y.numel():
        with device_of(x):
            _linear[(grid,)](
                x, _contiguous(rows), weight, _contiguous(bias), y, *_strides(x, rows), batch, outputs, inputs,
                TILE_BATCH=rows_of, TILE_OUT=tile.outputs, TILE_IN=tile.inputs, PRECISION=precision, RELU=relu,
                num_warps=tile.warps, num_stages=tile.stages,
            )  # fmt: skip
    return y


def linear_input(gradient: Tensor, weight: Tensor, precision: str, dtype: torch.dtype) -> Tensor:
    """The gradient of the input; arguments as of `openwork.kernels.stacked.stacked_linear_input`."""
    members, outputs, inputs = weight.shape
    gradient, batch = gradient.contiguous(), gradient.shape[1]
    x_gradient = gradient.new_empty(members, batch, inputs, dtype=dtype)
    tile, rows_of = _fitted(LINEAR_INPUT, outputs, inputs), min(_BATCH, _size(batch))
    grid = members * triton.cdiv(inputs, tile.inputs) * triton.cdiv(batch, rows_of)
    if x_gradient.numel():
        with device_of(gradient):
            _linear_input[(grid,)](
                gradient, weight, x_gradient, batch, outputs, inputs,
                TILE_BATCH=rows_of, TILE_OUT=tile.outputs, TILE_IN=tile.inputs, PRECISION=precision,
                num_warps=tile.warps, num_stages=tile.stages,
            )  # fmt: skip
    return x_gradient


def linear_adam(
    weight: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor,
    bias: Tensor | None, bias_exp_avg: Tensor | None, bias_exp_avg_sq: Tensor | None,
    x: Tensor, gradient: Tensor, rows: Tensor | None, scales: Tensor,
    beta1: float, beta2: float, eps: float, weight_decay: float, precision: str,
) -> None:  # fmt: skip
    """A step of Adam; arguments as of `openwork.kernels.stacked.stacked_linear_adam`."""
    members, outputs, inputs = weight.shape
    x, gradient, batch = _last_contiguous(x), gradient.contiguous(), gradient.shape[1]
    tile = _fitted(ADAM_NARROW if inputs < NARROW else ADAM, outputs, inputs)
    rows_of = min(_BATCHES[precision], _size(batch))
    grid = members * triton.cdiv(outputs, tile.outputs) * triton.cdiv(inputs, tile.inputs * tile.tiles)
    if weight.numel():
        with device_of(x):
            _linear_adam[(grid,)](
                weight, exp_avg, exp_avg_sq, bias, bias_exp_avg, bias_exp_avg_sq, x, gradient, _contiguous(rows),
                scales, *_strides(x, rows), batch, outputs, inputs,
                BETA1=beta1, BETA2=beta2, EPS=eps, DECAY=weight_decay,
                TILE_BATCH=rows_of, TILE_OUT=tile.outputs, TILE_IN=tile.inputs, TILES=tile.tiles, STAGES=tile.stages,
                PRECISION=precision, num_warps=tile.warps,
            )  # fmt: skip


def _fitted(tile: Tile, outputs: int, inputs: int) -> Tile:
    """The tile, no larger than the layer needs."""
    wide = min(tile.inputs, _size(inputs))
    return tile._replace(
        outputs=min(tile.outputs, _size(outputs)), inputs=wide, tiles=min(tile.tiles, triton.cdiv(inputs, wide))
    )


def _size(number: int) -> int:
    """The smallest power of two that is not smaller, and at least 16, the least of a product."""
    return max(16, 1 << (number - 1).bit_length())


def _strides(x: Tensor, rows: Tensor | None) -> tuple[int, int]:
    """From one model's input to the next, and from one row to the next."""
    return (x.stride(0) if x.dim() == 3 and rows is None else 0), x.stride(-2)


def _last_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


@triton.jit
def _dot(a, b, total, PRECISION: tl.constexpr):
    if PRECISION == "bf16":
        total = tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), total)
    else:
        total = tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision=PRECISION)
    return total


@triton.jit
def _starts(rows_ptr, member, row, BATCH: tl.constexpr, x_row: tl.constexpr):
    """Where some rows of a model's input begin."""
    if rows_ptr is not None:
        at = tl.load(rows_ptr + member * BATCH + row, mask=row < BATCH, other=0) * x_row
    else:
        at = row * x_row
    return at


@triton.jit
def _load(x_ptr, starts, row, column, BATCH: tl.constexpr, IN: tl.constexpr):
    """Some columns of these rows, 0 outside of the input."""
    there = (row < BATCH)[:, None] & (column < IN)[None, :]
    return tl.load(x_ptr + starts[:, None] + column[None, :], mask=there, other=0)


@triton.jit
def _linear(
    x_ptr, rows_ptr, weight_ptr, bias_ptr, y_ptr, x_member, x_row: tl.constexpr,
    BATCH: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr,
    TILE_BATCH: tl.constexpr, TILE_OUT: tl.constexpr, TILE_IN: tl.constexpr,
    PRECISION: tl.constexpr, RELU: tl.constexpr,
):  # fmt: skip
    TILES: tl.constexpr = (OUT + TILE_OUT - 1) // TILE_OUT
    PARTS: tl.constexpr = (BATCH + TILE_BATCH - 1) // TILE_BATCH
    member = (tl.program_id(0) // (TILES * PARTS)).to(tl.int64)
    tile = tl.program_id(0) % (TILES * PARTS)
    out = tile % TILES * TILE_OUT + tl.arange(0, TILE_OUT)
    row = tile // TILES * TILE_BATCH + tl.arange(0, TILE_BATCH)
    x_ptr += member * x_member
    weight_ptr += member * (OUT * IN)
    starts = _starts(rows_ptr, member, row, BATCH, x_row)
    total = tl.zeros([TILE_BATCH, TILE_OUT], tl.float32)
    for first in range(0, IN, TILE_IN):
        column = first + tl.arange(0, TILE_IN)
        x = _load(x_ptr, starts, row, column, BATCH, IN)
        there = (out < OUT)[:, None] & (column < IN)[None, :]
        weight = tl.load(weight_ptr + out[:, None] * IN + column[None, :], mask=there, other=0)
        total = _dot(x, tl.trans(weight), total, PRECISION)
    if bias_ptr is not None:
        total += tl.load(bias_ptr + member * OUT + out, mask=out < OUT, other=0)[None, :]
    if RELU:
        total = tl.where(total < 0, 0.0, total)  # unlike tl.maximum it keeps NaN
    there = (row < BATCH)[:, None] & (out < OUT)[None, :]
    y_ptr += member * (BATCH * OUT)
    at = row[:, None] * OUT + out[None, :]
    tl.store(y_ptr + at, total.to(y_ptr.dtype.element_ty), mask=there)


@triton.jit
def _linear_input(
    gradient_ptr, weight_ptr, x_gradient_ptr,
    BATCH: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr,
    TILE_BATCH: tl.constexpr, TILE_OUT: tl.constexpr, TILE_IN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    TILES: tl.constexpr = (IN + TILE_IN - 1) // TILE_IN
    PARTS: tl.constexpr = (BATCH + TILE_BATCH - 1) // TILE_BATCH
    member = (tl.program_id(0) // (TILES * PARTS)).to(tl.int64)
    tile = tl.program_id(0) % (TILES * PARTS)
    column = tile % TILES * TILE_IN + tl.arange(0, TILE_IN)
    row = tile // TILES * TILE_BATCH + tl.arange(0, TILE_BATCH)
    gradient_ptr += member * (BATCH * OUT)
    weight_ptr += member * (OUT * IN)
    total = tl.zeros([TILE_BATCH, TILE_IN], tl.float32)
    for first in range(0, OUT, TILE_OUT):
        out = first + tl.arange(0, TILE_OUT)
        gradient = _load(gradient_ptr, row * OUT, row, out, BATCH, OUT)
        there = (out < OUT)[:, None] & (column < IN)[None, :]
        weight = tl.load(weight_ptr + out[:, None] * IN + column[None, :], mask=there, other=0)
        total = _dot(gradient, weight, total, PRECISION)
    there = (row < BATCH)[:, None] & (column < IN)[None, :]
    x_gradient_ptr += member * (BATCH * IN)
    at = row[:, None] * IN + column[None, :]
    tl.store(x_gradient_ptr + at, total.to(x_gradient_ptr.dtype.element_ty), mask=there)


@triton.jit
def _linear_adam(
    weight_ptr, exp_avg_ptr, exp_avg_sq_ptr, bias_ptr, bias_exp_avg_ptr, bias_exp_avg_sq_ptr,
    x_ptr, gradient_ptr, rows_ptr, scales_ptr, x_member, x_row: tl.constexpr,
    BATCH: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr,
    BETA1: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr, DECAY: tl.constexpr,
    TILE_BATCH: tl.constexpr, TILE_OUT: tl.constexpr, TILE_IN: tl.constexpr, TILES: tl.constexpr,
    STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    MASKED: tl.constexpr = -0x80000000  # the bits of -0.0
    OUTS: tl.constexpr = (OUT + TILE_OUT - 1) // TILE_OUT
    STRETCH: tl.constexpr = TILE_IN * TILES
    STRETCHES: tl.constexpr = (IN + STRETCH - 1) // STRETCH
    member = (tl.program_id(0) // (OUTS * STRETCHES)).to(tl.int64)
    number = tl.program_id(0) % (OUTS * STRETCHES)
    out = number % OUTS * TILE_OUT + tl.arange(0, TILE_OUT)
    begin = number // OUTS * STRETCH
    x_ptr += member * x_member
    gradient_ptr += member * (BATCH * OUT)
    weight_ptr += member * (OUT * IN)
    exp_avg_ptr += member * (OUT * IN)
    exp_avg_sq_ptr += member * (OUT * IN)
    size = tl.load(scales_ptr + member * 3)
    scale = tl.load(scales_ptr + member * 3 + 1)
    step = tl.load(scales_ptr + member * 3 + 2)
    first_row = tl.arange(0, TILE_BATCH)
    first_starts = _starts(rows_ptr, member, first_row, BATCH, x_row)
    first_gradient = _load(gradient_ptr, first_row * OUT, first_row, out, BATCH, OUT)
    # Weights and moments of a tile are on their way while the tile before it is computed.
    for first in tl.range(0, STRETCH, TILE_IN, num_stages=STAGES):
        column = begin + first + tl.arange(0, TILE_IN)
        x = _load(x_ptr, first_starts, first_row, column, BATCH, IN)
        total = tl.zeros([TILE_OUT, TILE_IN], tl.float32)
        total = _dot(tl.trans(first_gradient), x, total, PRECISION)
        for part in tl.static_range(TILE_BATCH, BATCH, TILE_BATCH):
            row = part + first_row
            x = _load(x_ptr, _starts(rows_ptr, member, row, BATCH, x_row), row, column, BATCH, IN)
            gradient = _load(gradient_ptr, row * OUT, row, out, BATCH, OUT)
            total = _dot(tl.trans(gradient), x, total, PRECISION)
        at = out[:, None] * IN + column[None, :]
        there = (out < OUT)[:, None] & (column < IN)[None, :]
        weight = tl.load(weight_ptr + at, mask=there, other=0)
        mean = tl.load(exp_avg_ptr + at, mask=there, other=0).to(tl.float32)
        square = tl.load(exp_avg_sq_ptr + at, mask=there, other=0).to(tl.float32)
        kept = square.to(tl.int32, bitcast=True) != MASKED
        weight, mean, new = moved(weight, mean, square, total, size, scale, BETA1, BETA2, EPS, DECAY)
        square = tl.where(kept, new, square)
        tl.store(weight_ptr + at, tl.where(kept, weight, 0.0), mask=there)
        tl.store(exp_avg_ptr + at, tl.where(kept, mean, 0.0).to(exp_avg_ptr.dtype.element_ty), mask=there)
        if exp_avg_sq_ptr.dtype.element_ty == tl.bfloat16:
            tl.store(exp_avg_sq_ptr + at, rounded(square, at, step), mask=there)
        else:
            tl.store(exp_avg_sq_ptr + at, square, mask=there)
    if bias_ptr is not None:  # noqa: SIM102  (the first is known when Triton compiles)
        if number < OUTS:  # one program of those that share these outputs
            _bias_adam(
                bias_ptr + member * OUT, bias_exp_avg_ptr + member * OUT, bias_exp_avg_sq_ptr + member * OUT,
                gradient_ptr, out, size, scale, BATCH, OUT, BETA1, BETA2, EPS, DECAY, TILE_BATCH, TILE_OUT,
            )  # fmt: skip


@triton.jit
def _bias_adam(
    bias_ptr, exp_avg_ptr, exp_avg_sq_ptr, gradient_ptr, out, size, scale, BATCH: tl.constexpr,
    OUT: tl.constexpr, BETA1: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr, DECAY: tl.constexpr,
    TILE_BATCH: tl.constexpr, TILE_OUT: tl.constexpr,
):  # fmt: skip
    there = out < OUT
    sums = tl.zeros([TILE_OUT], tl.float32)
    for first in range(0, BATCH, TILE_BATCH):
        row = first + tl.arange(0, TILE_BATCH)
        gradient = _load(gradient_ptr, row * OUT, row, out, BATCH, OUT)
        sums += tl.sum(gradient.to(tl.float32), 0)
    bias = tl.load(bias_ptr + out, mask=there, other=0)
    mean = tl.load(exp_avg_ptr + out, mask=there, other=0)
    square = tl.load(exp_avg_sq_ptr + out, mask=there, other=0)
    bias, mean, square = moved(bias, mean, square, sums, size, scale, BETA1, BETA2, EPS, DECAY)
    tl.store(bias_ptr + out, bias, mask=there)
    tl.store(exp_avg_ptr + out, mean, mask=there)
    tl.store(exp_avg_sq_ptr + out, square, mask=there)
