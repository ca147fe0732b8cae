"""Masks applied to many tensors by one launch: a program takes a piece of one of them, in the order of the memory.

Addresses are arguments of the kernel, not a table on the device, so that a CUDA graph may hold the launch.
"""

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from openwork.kernels.triton.launching import device_of
from openwork.kernels.triton.tables import begins

AT_ONCE = 32
"""How many tensors a launch takes: a program finds its own by comparing its number with where each begins."""
PIECE = 16_384
"""How many numbers a program takes, `STEP` at a time."""
STEP = 4096


def mask_(tensors: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """Masks the tensors; arguments as of `openwork.kernels.masks.mask_`, each pair laid out alike."""
    _launch(_mask, tensors, masks)


def hide_(values: Sequence[Tensor], hidden: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """Copies the values and masks them; arguments as of `openwork.kernels.masks.hide_`, each triple laid out alike."""
    _launch(_hide, values, hidden, masks)


def remember_(hidden: Sequence[Tensor], values: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """Copies what is kept; arguments as of `openwork.kernels.masks.remember_`, each triple laid out alike."""
    _launch(_copy, values, hidden, masks, KEPT=True)


def restore_(values: Sequence[Tensor], hidden: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """Copies what is masked; arguments as of `openwork.kernels.masks.restore_`, each triple laid out alike."""
    _launch(_copy, hidden, values, masks, KEPT=False)


def _launch(kernel: Any, *lists: Sequence[Tensor], **settings: bool) -> None:
    """Runs the kernel over tensors of one dtype on one device, none of which is empty."""
    for first in range(0, len(lists[0]), AT_ONCE):
        some = [list(tensors[first : first + AT_ONCE]) for tensors in lists]
        sizes = [tensor.numel() for tensor in some[0]]
        starts, total = begins([triton.cdiv(size, PIECE) for size in sizes])
        missing = triton.next_power_of_2(len(sizes)) - len(sizes)  # few numbers of tensors, few kernels to compile
        starts += [total] * missing
        filled = [tuple(tensors + tensors[:1] * missing) for tensors in some]
        with device_of(some[0][0]):
            kernel[(total,)](
                *filled, tuple(starts), tuple(sizes + sizes[:1] * missing),
                PIECE=PIECE, STEP=STEP, num_warps=8, **settings,
            )  # fmt: skip


@triton.jit
def _own(values, starts):
    """That of the program's tensor."""
    found = values[0]
    for place in tl.static_range(1, len(starts)):
        found = tl.where(tl.program_id(0) >= starts[place], values[place], found)
    return found


@triton.jit
def _first(starts, PIECE: tl.constexpr):
    """Where the program's piece begins; a tensor may have more than 2^31 numbers."""
    return (tl.program_id(0) - _own(starts, starts)).to(tl.int64) * PIECE


@triton.jit
def _places(first, tensor, STEP: tl.constexpr):
    """The places of a step's numbers, of which a thread takes 16 bytes at once, and not 16 bytes of the mask."""
    return tl.max_contiguous(first + tl.arange(0, STEP), 128 // tensor.dtype.element_ty.primitive_bitwidth)


@triton.jit
def _product(value, kept):
    return (value.to(tl.float32) * kept.to(tl.float32)).to(value.dtype)  # as plain: NaN stays NaN, and -1 becomes -0


@triton.jit
def _mask(tensors, masks, starts, sizes, PIECE: tl.constexpr, STEP: tl.constexpr):
    tensor, mask, size, first = _own(tensors, starts), _own(masks, starts), _own(sizes, starts), _first(starts, PIECE)
    if first + PIECE <= size:  # without comparisons the compiler moves 16 bytes at once
        for step in tl.static_range(0, PIECE, STEP):
            at = _places(first + step, tensor, STEP)
            _mask_some(tensor + at, mask + at, None)
    else:
        for step in tl.static_range(0, PIECE, STEP):
            at = _places(first + step, tensor, STEP)
            _mask_some(tensor + at, mask + at, at < size)


@triton.jit
def _mask_some(tensor, mask, there):
    tl.store(tensor, _product(tl.load(tensor, mask=there), tl.load(mask, mask=there)), mask=there)


@triton.jit
def _hide(values, hidden, masks, starts, sizes, PIECE: tl.constexpr, STEP: tl.constexpr):
    values, hidden, mask = _own(values, starts), _own(hidden, starts), _own(masks, starts)
    first, size = _first(starts, PIECE), _own(sizes, starts)
    if first + PIECE <= size:
        for step in tl.static_range(0, PIECE, STEP):
            at = _places(first + step, values, STEP)
            _hide_some(values + at, hidden + at, mask + at, None)
    else:
        for step in tl.static_range(0, PIECE, STEP):
            at = _places(first + step, values, STEP)
            _hide_some(values + at, hidden + at, mask + at, at < size)


@triton.jit
def _hide_some(values, hidden, mask, there):
    value = tl.load(values, mask=there)
    tl.store(hidden, value, mask=there)
    tl.store(values, _product(value, tl.load(mask, mask=there)), mask=there)


@triton.jit
def _copy(values, others, masks, starts, sizes, PIECE: tl.constexpr, STEP: tl.constexpr, KEPT: tl.constexpr):
    values, others, mask = _own(values, starts), _own(others, starts), _own(masks, starts)
    first, size = _first(starts, PIECE), _own(sizes, starts)
    if first + PIECE <= size:
        for step in tl.static_range(0, PIECE, STEP):
            at = _places(first + step, values, STEP)
            value, other = tl.load(values + at), tl.load(others + at)  # before the mask, whose layout is another
            tl.store(others + at, tl.where(tl.load(mask + at) == KEPT, value, other))
    else:
        for step in tl.static_range(0, PIECE, STEP):
            at = _places(first + step, values, STEP)
            there = at < size
            value = tl.load(values + at, mask=there)
            there &= tl.load(mask + at, mask=there, other=0) == KEPT
            tl.store(others + at, value, mask=there)
