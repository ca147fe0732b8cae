"""Counting the zeros of one weight tensor, and the patterns that they form.

A weight has shape (out, in, *kernel); its matrix has a row for each output and in·kernel columns. Experts, and the
groups of a convolution, are several matrices, each with outputs and inputs of its own.

* dead outputs: rows without a non-zero: units, filters, embeddings whose incoming weights are all zero;
* dead inputs: the same along the second axis: what the layer never reads;
* n:m: the fraction of groups of m consecutive weights along the input axis, at the same kernel position, with at most n
  non-zeros: the layout of sparse tensor cores (Mishra et al. 2021, arXiv 2104.08378);
* blocks: the fraction of the zeros that fill whole aligned blocks of h rows and w columns of the matrix.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from openwork.core.layout import Layout
from openwork.core.masks.counting import true_by_row
from openwork.core.sharded import is_sharded, local, shards_of

GROUPS = ("1:4", "2:4", "4:8")
BLOCKS = ((1, 4), (4, 1), (4, 4), (8, 8), (16, 16), (32, 32))
_CHUNK = 1 << 23  # elements looked at together: their masks stay in the processor's cache, and memory small
DENSIFIED = 1 << 26  # elements of the largest sparse tensor that is made dense to find its patterns
_BYTE_SUM_4 = 0x01010101  # the top byte of x * this is the sum of the four bytes of x
_BYTE_SUM_8 = 0x0101010101010101


@dataclass(frozen=True)
class Structure:
    """What `count_structure` found; the module's text defines each pattern.

    Args:
        nonzero: The number of non-zero weights.
        dead_outputs: The number of dead outputs.
        dead_inputs: The number of dead inputs.
        groups: "2:4" -> the fraction of groups that comply; sizes that do not divide the shape are left out.
        blocks: "4x4" -> the fraction of zeros in whole blocks; sizes that do not divide the shape are left out.
    """

    nonzero: int
    dead_outputs: int
    dead_inputs: int
    groups: dict[str, float]
    blocks: dict[str, float]


def count_nonzero(tensor: Tensor) -> int:
    """The number of non-zero elements; -0.0 is zero, NaN is not.

    Args:
        tensor: Of any layout, and of any type that compares with zero.

    Raises:
        ValueError: If the tensor has no values (meta), or its elements overlap in memory.
    """
    if is_sharded(tensor):
        return shards_of(tensor).sum([count_nonzero(local(tensor))])[0]
    distinct, copies = distinct_values(tensor)
    if distinct.dtype.itemsize > 1:
        return copies * int(distinct.count_nonzero())
    # count_nonzero knows no 8-bit floating-point types
    pieces = torch.split(distinct.reshape(-1), _CHUNK)
    return copies * sum(int((piece != 0).count_nonzero()) for piece in pieces)


def distinct_values(tensor: Tensor) -> tuple[Tensor, int]:
    """A strided tensor of the values, zeros of sparse layouts left out, and how many times the tensor shows each.

    Args:
        tensor: Of any layout, whole or the rows of one process.

    Raises:
        ValueError: If the tensor has no values (meta), or its elements overlap in memory.
    """
    if tensor.is_meta:
        raise ValueError("it is on the meta device and has no values; load the weights first")
    if tensor.is_sparse:
        return distinct_values(tensor.coalesce().values())
    if tensor.layout != torch.strided:
        return distinct_values(tensor.values())
    if tensor.is_quantized:
        return distinct_values(tensor.dequantize())
    distinct, copies = tensor, 1
    for dim, stride in enumerate(tensor.stride()):  # expand() shows one value many times: count it once
        if stride == 0 and tensor.shape[dim] > 1:
            distinct, copies = distinct.narrow(dim, 0, 1), copies * tensor.shape[dim]
    if distinct.numel() * distinct.element_size() > distinct.untyped_storage().nbytes():
        raise ValueError("its elements overlap in memory; save a contiguous() copy")
    return distinct, copies


@torch.no_grad()
def count_structure(weight: Tensor, layout: Layout | None = None) -> Structure | None:
    """The zeros of a weight and their patterns; None for one too large to lay out.

    Args:
        weight: The weight.
        layout: How it is stored; by default (out, in, *kernel).
    """
    if weight.layout != torch.strided or weight.is_quantized:
        if weight.numel() > DENSIFIED:
            return None
        weight = weight.dequantize() if weight.is_quantized else weight.to_dense()
    if weight.numel() * weight.element_size() > max(weight.untyped_storage().nbytes(), DENSIFIED):
        return None  # expanded from fewer values
    weight = layout.matrices(weight) if layout else weight.unsqueeze(0)
    if not weight.numel():
        return Structure(0, 0, 0, {}, {})
    matrices, outputs, inputs = weight.shape[:3]
    columns = weight[0, 0].numel()
    live_inputs = torch.zeros(matrices, inputs, dtype=torch.uint8, device=weight.device)
    nonzero = dead_outputs = 0
    groups = dict.fromkeys(_groups_of(inputs), 0)
    blocks = dict.fromkeys(_blocks_of(outputs, columns), 0)
    several = max(_CHUNK // (outputs * columns), 1)  # small matrices are looked at together, large ones in pieces
    rows = max(_CHUNK // columns // 32, 1) * 32  # a multiple of every block's height
    for live, some in zip(torch.split(live_inputs, several), torch.split(weight, several), strict=True):
        for piece in torch.split(some, rows, dim=1):
            mask = (piece != 0).reshape(*piece.shape[:2], inputs, -1).contiguous().view(torch.uint8)
            count = int(mask.count_nonzero())
            nonzero += count
            if count == mask.numel():
                live.fill_(1)
                continue
            dead_outputs += _zeros(mask.flatten(2).amax(2))  # amax of bytes is a hundred times faster than any()
            live |= mask.amax(1).amax(2)
            mask = mask.flatten(0, 1)
            for name, comply in _groups(mask, groups):
                groups[name] += int(comply.count_nonzero())
            for block, alive in _blocks(mask.flatten(1), blocks):
                blocks[block] += _zeros(alive)
    dead_inputs = live_inputs.numel() - int(live_inputs.count_nonzero())
    return _structure(weight.numel(), nonzero, dead_outputs, dead_inputs, groups, blocks)


@torch.no_grad()
def count_structures(weights: Tensor, layout: Layout) -> list[Structure]:
    """What `count_structure` finds in each of several weights, which is read back from the device together.

    Args:
        weights: (N, *shape), strided.
        layout: How each is stored.
    """
    size = weights[0].numel()
    if not size:
        return [Structure(0, 0, 0, {}, {}) for _ in weights]
    _, outputs, inputs, *kernel = layout.shape
    columns = inputs * math.prod(kernel)
    found = []
    for some in torch.split(weights, max(_CHUNK // size, 1)):
        mask = torch.stack([layout.matrices(kept) for kept in some != 0])
        mask = mask.reshape(-1, inputs, columns // inputs).contiguous().view(torch.uint8)  # (N * matrices * out, ...)
        rows, live_inputs = mask.flatten(1), mask.view(-1, outputs, *mask.shape[1:]).amax(1).amax(2)
        groups = dict(_groups(mask, _groups_of(inputs)))
        blocks = {block: live == 0 for block, live in _blocks(rows, _blocks_of(outputs, columns))}
        each = [mask, rows.amax(1) == 0, live_inputs == 0, *groups.values(), *blocks.values()]
        counts = torch.stack([true_by_row(flags.reshape(len(some), -1)) for flags in each], 1).tolist()
        for nonzero, dead_outputs, dead_inputs, *others in counts:
            of_groups = dict(zip(groups, others, strict=False))
            of_blocks = dict(zip(blocks, others[len(groups) :], strict=True))
            found.append(_structure(size, nonzero, dead_outputs, dead_inputs, of_groups, of_blocks))
    return found


def _groups_of(inputs: int) -> list[str]:
    return [name for name in GROUPS if inputs % int(name[2:]) == 0]


def _blocks_of(outputs: int, columns: int) -> list[tuple[int, int]]:
    return [block for block in BLOCKS if outputs % block[0] == 0 and columns % block[1] == 0]


def _structure(
    size: int,
    nonzero: int,
    dead_outputs: int,
    dead_inputs: int,
    groups: Mapping[str, int],
    blocks: Mapping[tuple[int, int], int],
) -> Structure:
    """The structure of a weight of ``size`` values with so many groups that comply and so many all-zero blocks."""
    zeros = size - nonzero
    return Structure(
        nonzero,
        dead_outputs,
        dead_inputs,
        {name: count / (size // int(name[2:])) for name, count in groups.items()},
        {f"{h}x{w}": count * h * w / zeros for (h, w), count in blocks.items()} if zeros else {},
    )


def _groups(mask: Tensor, names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """Which groups comply, flat, for each of the names; mask: (out, in, positions) of 0 and 1."""
    if not names:
        return
    flat = mask.transpose(1, 2).reshape(-1)  # groups run along the inputs
    fours = (flat.view(torch.int32) * _BYTE_SUM_4) >> 24
    yield "1:4", fours <= 1
    yield "2:4", fours <= 2
    if "4:8" in names:
        yield "4:8", ((flat.view(torch.int64) * _BYTE_SUM_8) >> 56) <= 4


def _blocks(mask: Tensor, sizes: Collection[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """Which blocks have a non-zero, in bytes, for each of the sizes, in the order of `BLOCKS`.

    Args:
        mask: (rows, columns) of 0 and 1, a whole number of the blocks.
        sizes: Those that divide the weight.
    """
    if (1, 4) in sizes:
        live = (mask.view(torch.int32) != 0).view(torch.uint8)
        yield (1, 4), live
    if (4, 1) in sizes:
        yield (4, 1), mask.view(-1, 4, mask.shape[1]).amax(1)
    if (4, 4) in sizes:
        live = live.view(-1, 4, live.shape[1]).amax(1)
        yield (4, 4), live
        for side in (8, 16, 32):
            if (side, side) not in sizes:
                break
            live = live.view(live.shape[0] // 2, 2, live.shape[1] // 2, 2).amax(1).amax(2)
            yield (side, side), live


def _zeros(mask: Tensor) -> int:
    return mask.numel() - int(mask.count_nonzero())
