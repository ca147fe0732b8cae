"""Sums over the gates of many weights in one pass; see kernels/gate_sums.py.

A program works on a stretch of one weight, whose address it reads from a table.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from openwork.kernels.triton.launching import device_of
from openwork.kernels.triton.tables import begins, lasting

BLOCK = 1024
STRETCH = 8192
"""Of the elements of a weight that a program takes."""
ALIGNED = 64
"""The gradients of each weight begin at a multiple of this, so that later kernels may read several at once."""


def sums(log_alphas: Sequence[Tensor], weights: Sequence[Tensor], shift: float) -> Tensor:
    """(2,): the sum of P = sigmoid(log alpha + shift), and that of P * weight^2, 0 without weights.

    Args:
        log_alphas: Each in one piece.
        weights: As many, lying alike, or none.
        shift: See above.
    """
    table = _table(log_alphas, weights)
    parts = log_alphas[0].new_empty(len(table.which), 2)
    if len(parts):
        with device_of(parts):
            _sums[(len(parts),)](
                *table, parts, shift, len(log_alphas), SQUARES=bool(weights), STRETCH=STRETCH, BLOCK=BLOCK
            )
    return parts.sum(0)


def gradients(factors: Tensor, log_alphas: Sequence[Tensor], weights: Sequence[Tensor], shift: float) -> list[Tensor]:
    """The gradients of factors @ sums(...) by each log alpha, then by each weight; parts of one tensor.

    Args:
        factors: (2,), on the device.
        log_alphas: As `sums` takes them.
        weights: See there.
        shift: See there.
    """
    table = _table(log_alphas, weights)
    sizes = [triton.cdiv(tensor.numel(), ALIGNED) * ALIGNED for tensor in log_alphas]
    out = log_alphas[0].new_empty(2 if weights else 1, sum(sizes))
    if out.numel():
        with device_of(out):
            _gradients[(len(table.which),)](
                *table, factors, out, out.stride(0), shift, len(log_alphas),
                SQUARES=bool(weights), STRETCH=STRETCH, BLOCK=BLOCK, ALIGNED=ALIGNED,
            )  # fmt: skip
    found = []
    for row in out:
        for tensor, part in zip(log_alphas, row.split(sizes), strict=True):
            found.append(part.as_strided(tensor.shape, tensor.stride()))
    return found


class _Table(NamedTuple):
    """Where programs find their part.

    Args:
        addresses: (2 or 1, tensors) int64: of log alpha, and of the weights.
        ends: (tensors,) int64: how many elements each has.
        starts: (tensors,) int64: the first program of each.
        places: (tensors,) int64: where each one's gradients begin.
        which: (programs,) int32: the tensor of each.
    """

    addresses: Tensor
    ends: Tensor
    starts: Tensor
    places: Tensor
    which: Tensor


def _table(log_alphas: Sequence[Tensor], weights: Sequence[Tensor]) -> _Table:
    places = tuple(tensor.data_ptr() for tensor in (*log_alphas, *weights))
    return _made(places, tuple(tensor.numel() for tensor in log_alphas), log_alphas[0].device)


@cache
def _made(addresses: tuple[int, ...], sizes: tuple[int, ...], device: torch.device) -> _Table:
    """Kept for good: nothing can be copied from the host while a CUDA graph is captured, and its replays read it."""
    programs = [triton.cdiv(size, STRETCH) for size in sizes]
    which = torch.repeat_interleave(torch.arange(len(sizes), device="cpu"), torch.tensor(programs, device="cpu")).int()
    numbers = torch.tensor([sizes, begins(programs)[0], begins(sizes, ALIGNED)[0]], device="cpu")
    parts = torch.tensor(addresses, device="cpu").view(-1, len(sizes)), *numbers, which
    return _Table(*lasting([part.contiguous() for part in parts], device))


@triton.jit
def _sums(
    addresses_ptr, ends_ptr, starts_ptr, places_ptr, which_ptr, sums_ptr, shift, tensors,
    SQUARES: tl.constexpr, STRETCH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    which = tl.load(which_ptr + program)
    begin = (program - tl.load(starts_ptr + which)) * STRETCH
    end = tl.load(ends_ptr + which)
    total = tl.zeros([BLOCK], tl.float32)
    squares = tl.zeros([BLOCK], tl.float32)
    for step in range(STRETCH // BLOCK):
        at = begin + step * BLOCK + tl.arange(0, BLOCK)
        p = _open(addresses_ptr, which, at, end, shift)
        total += p
        if SQUARES:
            weight = _values(addresses_ptr, tensors + which, at, end)
            squares += p * weight * weight
    tl.store(sums_ptr + 2 * program, tl.sum(total, 0))
    tl.store(sums_ptr + 2 * program + 1, tl.sum(squares, 0))


@triton.jit
def _gradients(
    addresses_ptr, ends_ptr, starts_ptr, places_ptr, which_ptr, factors_ptr, out_ptr, width, shift, tensors,
    SQUARES: tl.constexpr, STRETCH: tl.constexpr, BLOCK: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    which = tl.load(which_ptr + program)
    begin = (program - tl.load(starts_ptr + which)) * STRETCH
    end = tl.load(ends_ptr + which)
    place = tl.multiple_of(tl.load(places_ptr + which), ALIGNED)
    first, second = tl.load(factors_ptr), tl.load(factors_ptr + 1)
    for step in range(STRETCH // BLOCK):
        at = begin + step * BLOCK + tl.arange(0, BLOCK)
        p = _open(addresses_ptr, which, at, end, shift)
        factor = first
        if SQUARES:
            weight = _values(addresses_ptr, tensors + which, at, end)
            factor = first + second * weight * weight
            tl.store(out_ptr + width + place + at, 2 * second * p * weight, mask=at < end)
        tl.store(out_ptr + place + at, factor * (p - p * p), mask=at < end)


@triton.jit
def _open(addresses_ptr, which, at, end, shift):
    """P(z != 0) of the gates, 0 where there are none."""
    log_alpha = _values(addresses_ptr, which, at, end)
    return tl.where(at < end, 1.0 / (1.0 + tl.exp(-shift - log_alpha)), 0.0)


@triton.jit
def _values(addresses_ptr, which, at, end):
    address = tl.load(addresses_ptr + which).to(tl.pointer_type(tl.float32))
    return tl.load(tl.multiple_of(address, 16) + at, mask=at < end, other=0)
