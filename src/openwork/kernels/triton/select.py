"""The passes of a radix selection over many tensors: a program a block of one tensor, whose place a table says."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from openwork.kernels.paths import in_one_piece
from openwork.kernels.select import on
from openwork.kernels.triton.launching import device_of

_BLOCK = 8192
_WARPS = 8
_BITS = 8
"""Of a digit: more would need more counts than shared memory and the sums over blocks take well."""
_FEW = 256
"""So many digits of a block are added one by one: after the first two digits hardly a value is left to look at."""


class Table(NamedTuple):
    """Where tensors lie, and which part of which one each program reads.

    Args:
        values: What holds the tensors, each in one piece, in whatever order its elements lie there.
        pointers: (T,) int64, where each begins.
        owners: (blocks,) int32, the tensor that each program reads.
        starts: (blocks,) int64, its first element.
        sizes: (T,) int64, the numbers of elements.
    """

    values: Sequence[Tensor]
    pointers: Tensor
    owners: Tensor
    starts: Tensor
    sizes: Tensor


def table(values: Sequence[Tensor]) -> Table:
    """The table of tensors of one dtype on one device."""
    dense = [value if in_one_piece(value) else value.contiguous() for value in values]
    device = dense[0].device
    pointers = on(torch.tensor([value.data_ptr() for value in dense], device="cpu"), device)
    return Table(dense, pointers, *_blocks(tuple(value.numel() for value in dense), device))


def table_of_rows(values: Tensor) -> Table:
    """The table of the rows of one tensor, (rows, n), which may lie at any distance from each other."""
    rows, n = values.shape
    values = values if values.stride(1) == 1 or n <= 1 else values.contiguous()
    return Table([values], _beginnings(values), *_blocks((n,) * rows, values.device))


def count(table: Table, found: Tensor, shift: int, counts: Tensor) -> None:
    """Adds to ``counts`` (rows, 256) int64 how often each digit at ``shift`` follows those that are ``found``.

    Args:
        table: The tensors.
        found: (rows,) int64, the higher digits: a row for each tensor, or one for all.
        shift: The lowest bit of the digit.
        counts: Those so far.
    """
    value = table.values[0]
    if len(table.owners):
        with device_of(value):
            _count[(len(table.owners),)](
                table.pointers, table.owners, table.starts, table.sizes, found, counts, shift,
                FIRST=shift + _BITS == 8 * value.element_size(), EACH=len(found) > 1,
                BITS=_BITS, **_kind(value), BLOCK=_BLOCK, FEW=_FEW, num_warps=_WARPS,
            )  # fmt: skip


def settle(counts: Tensor, found: Tensor, k: Tensor, shift: int) -> None:
    """Does what `openwork.kernels.digits.settle_plain` does."""
    with device_of(counts):
        _settle[(len(found),)](counts, found, k, shift, DIGITS=counts.shape[1], num_warps=4)


def reach(table: Table, found: Tensor, *, masks: bool = True) -> tuple[list[Tensor], Tensor]:
    """The masks and numbers of `openwork.kernels.select.Selected`.

    Args:
        table: The tensors.
        found: The keys of the thresholds, int64: one for each tensor, or one for all.
        masks: Whether masks are wanted; without, their list is empty.
    """
    value = table.values[0]
    made = [torch.empty_like(value, dtype=torch.bool) for value in table.values] if masks else []
    targets = on(torch.tensor([mask.data_ptr() for mask in made], device="cpu"), value.device) if masks else None
    return made, _reached(table, found, targets)


def reach_rows(table: Table, found: Tensor) -> tuple[Tensor, Tensor]:
    """Mask and numbers of `openwork.kernels.select_rows.SelectedRows`.

    Args:
        table: That of rows.
        found: The keys of their thresholds, int64.
    """
    mask = torch.empty(table.values[0].shape, dtype=torch.bool, device=table.values[0].device)
    return mask, _reached(table, found, _beginnings(mask))


def _beginnings(values: Tensor) -> Tensor:
    """Where each row begins, (rows,) int64."""
    distance = values.stride(0) * values.element_size()
    return torch.arange(len(values), device=values.device) * distance + values.data_ptr()


def _reached(table: Table, found: Tensor, targets: Tensor | None) -> Tensor:
    """The numbers; the masks go to where the targets say that each begins, int64."""
    value, number = table.values[0], len(table.sizes)
    numbers = torch.zeros(3, number, dtype=torch.int64, device=value.device)
    if len(table.owners):
        with device_of(value):
            _reach[(len(table.owners),)](
                table.pointers, table.pointers if targets is None else targets, table.owners, table.starts, table.sizes,
                found, numbers, number, EACH=len(found) > 1, MASKS=targets is not None, **_kind(value), BLOCK=_BLOCK,
                num_warps=_WARPS,
            )  # fmt: skip
    return numbers


def _kind(value: Tensor) -> dict[str, Any]:
    """How the kernels read values."""
    if value.element_size() == 8:
        return {"KIND": tl.int64, "INFINITY": 0x7FF0000000000000}
    return {"KIND": tl.int32, "INFINITY": 0x7F800000}


@lru_cache(maxsize=16)  # the tables of a model's weights are the same at each update
def _blocks(sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    size = torch.tensor(sizes, device="cpu")
    blocks = (size + _BLOCK - 1) // _BLOCK
    owners = torch.arange(len(sizes), device="cpu").repeat_interleave(blocks)
    starts = (torch.arange(len(owners), device="cpu") - (blocks.cumsum(0) - blocks)[owners]) * _BLOCK
    return on(owners.int(), device), on(starts, device), on(size, device)


@triton.jit
def _keys(table_ptr, sizes_ptr, owner, start, KIND: tl.constexpr, INFINITY: tl.constexpr, BLOCK: tl.constexpr):
    """The keys of a block, integers in the order of the values with NaN lowest; which there are, and where."""
    LAST: tl.constexpr = 2 ** (KIND.primitive_bitwidth - 1) - 1
    place = start + tl.arange(0, BLOCK)
    there = place < tl.load(sizes_ptr + owner)
    # Loaded as integers: nothing flushes subnormal numbers to zero.
    bits = tl.load(tl.load(table_ptr + owner).to(tl.pointer_type(KIND)) + place, mask=there, other=0)
    magnitude = bits & LAST
    keys = tl.where(bits < 0, 0 - magnitude, bits)  # -0.0 is 0.0
    return tl.where(magnitude > INFINITY, -LAST - 1, keys), there, place


@triton.jit
def _known(found_ptr, row, KIND: tl.constexpr):
    """The digits that are found, in the places of a key."""
    LAST: tl.constexpr = 2 ** (KIND.primitive_bitwidth - 1) - 1
    return tl.load(found_ptr + row).to(KIND) ^ (-LAST - 1)


@triton.jit(do_not_specialize=["shift"])  # each digit would be compiled anew
def _count(
    pointers_ptr, owners_ptr, starts_ptr, sizes_ptr, found_ptr, counts_ptr, shift,
    FIRST: tl.constexpr, EACH: tl.constexpr, BITS: tl.constexpr,
    KIND: tl.constexpr, INFINITY: tl.constexpr, BLOCK: tl.constexpr, FEW: tl.constexpr,
):  # fmt: skip
    owner = tl.load(owners_ptr + tl.program_id(0))
    start = tl.load(starts_ptr + tl.program_id(0))
    keys, there, _ = _keys(pointers_ptr, sizes_ptr, owner, start, KIND, INFINITY, BLOCK)
    row = owner * EACH
    DIGITS: tl.constexpr = 2**BITS
    digit = ((keys >> shift) & (DIGITS - 1)).to(tl.int32)
    at = counts_ptr + row * DIGITS
    some = BLOCK
    if FIRST:
        digit = digit ^ (DIGITS // 2)  # the sign bit counts the other way
    else:
        there = there & (((keys ^ _known(found_ptr, row, KIND)) >> (shift + BITS)) == 0)
        some = tl.sum(there.to(tl.int32), 0)
    if some > FEW:
        number = tl.histogram(digit, DIGITS, mask=there)
        tl.atomic_add(at + tl.arange(0, DIGITS), number.to(tl.int64), mask=number > 0)
    elif some > 0:
        tl.atomic_add(at + digit, tl.full([BLOCK], 1, tl.int64), mask=there)


@triton.jit(do_not_specialize=["shift"])
def _settle(counts_ptr, found_ptr, k_ptr, shift, DIGITS: tl.constexpr):
    row = tl.program_id(0)
    digits = tl.arange(0, DIGITS)
    number = tl.load(counts_ptr + row * DIGITS + digits)
    k = tl.load(k_ptr + row)
    above = tl.cumsum(number, 0, reverse=True)
    digit = tl.sum((above >= k).to(tl.int32), 0) - 1
    higher = tl.sum(tl.where(digits == digit, above - number, 0), 0)
    tl.store(k_ptr + row, k - higher)
    tl.store(found_ptr + row, tl.load(found_ptr + row) | (digit.to(tl.int64) << shift))


@triton.jit
def _reach(
    pointers_ptr, targets_ptr, owners_ptr, starts_ptr, sizes_ptr, found_ptr, numbers_ptr, number,
    EACH: tl.constexpr, MASKS: tl.constexpr, KIND: tl.constexpr, INFINITY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    owner = tl.load(owners_ptr + tl.program_id(0))
    start = tl.load(starts_ptr + tl.program_id(0))
    keys, there, place = _keys(pointers_ptr, sizes_ptr, owner, start, KIND, INFINITY, BLOCK)
    threshold = _known(found_ptr, owner * EACH, KIND)
    # A ranking counts -inf, which no mask keeps.
    usable = there & (keys > -INFINITY if MASKS else keys >= -INFINITY)
    kept = usable & (keys >= threshold)
    if MASKS:
        target = tl.load(targets_ptr + owner).to(tl.pointer_type(tl.int8))
        tl.store(target + place, kept.to(tl.int8), mask=there)
    ties = usable & (keys == threshold)
    spoiled = there & (keys < -INFINITY)
    tl.atomic_add(numbers_ptr + owner, tl.sum(kept.to(tl.int32), 0).to(tl.int64))
    tl.atomic_add(numbers_ptr + number + owner, tl.sum(ties.to(tl.int32), 0).to(tl.int64))
    tl.atomic_add(numbers_ptr + 2 * number + owner, tl.sum(spoiled.to(tl.int32), 0).to(tl.int64))
