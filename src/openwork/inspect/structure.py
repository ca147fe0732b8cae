"""Counting the zeros of one weight tensor, and the patterns that they form.

A weight has shape (out, in, *kernel); its matrix has a row for each output and in·kernel columns. Experts, and the
groups of a convolution, are several matrices, each with outputs and inputs of its own.

* dead outputs: rows without a non-zero: units, filters, embeddings whose incoming weights are all zero;
* dead inputs: the same along the second axis: what the layer never reads;
* n:m: the fraction of groups of m consecutive weights along the input axis, at the same kernel position, with at most n
  non-zeros: the layout of sparse tensor cores (Mishra et al. 2021, arXiv 2104.08378);
* blocks: the fraction of the zeros that fill whole aligned blocks of h rows and w columns of the matrix.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from openwork.core.layout import Layout
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
    groups = {name: 0 for name in GROUPS if inputs % int(name[2:]) == 0}
    blocks = {size: 0 for size in BLOCKS if outputs % size[0] == 0 and columns % size[1] == 0}
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
            _count_groups(mask, groups)
            _count_blocks(mask.flatten(1), blocks)
    zeros = weight.numel() - nonzero
    per_group = {name: weight.numel() // int(name[2:]) for name in groups}
    return Structure(
        nonzero,
        dead_outputs,
        live_inputs.numel() - int(live_inputs.count_nonzero()),
        {name: count / per_group[name] for name, count in groups.items()},
        {f"{h}x{w}": count * h * w / zeros for (h, w), count in blocks.items()} if zeros else {},
    )


def _count_groups(mask: Tensor, found: dict[str, int]) -> None:
    """Adds the groups that comply to ``found``; mask: (out, in, positions) of 0 and 1."""
    if not found:
        return
    flat = mask.transpose(1, 2).reshape(-1)  # groups run along the inputs
    fours = (flat.view(torch.int32) * _BYTE_SUM_4) >> 24
    found["1:4"] += int((fours <= 1).count_nonzero())
    found["2:4"] += int((fours <= 2).count_nonzero())
    if "4:8" in found:
        eights = (flat.view(torch.int64) * _BYTE_SUM_8) >> 56
        found["4:8"] += int((eights <= 4).count_nonzero())


def _count_blocks(mask: Tensor, found: dict[tuple[int, int], int]) -> None:
    """Adds the all-zero blocks to ``found``; mask: (rows, columns) of 0 and 1, a whole number of the blocks."""
    if (4, 1) in found:
        found[4, 1] += _zeros(mask.view(-1, 4, mask.shape[1]).amax(1))
    if (1, 4) not in found:
        return
    live = (mask.view(torch.int32) != 0).view(torch.uint8)
    found[1, 4] += _zeros(live)
    if (4, 4) in found:
        live = live.view(-1, 4, live.shape[1]).amax(1)
        found[4, 4] += _zeros(live)
        for side in (8, 16, 32):
            if (side, side) not in found:
                break
            live = live.view(live.shape[0] // 2, 2, live.shape[1] // 2, 2).amax(1).amax(2)
            found[side, side] += _zeros(live)


def _zeros(mask: Tensor) -> int:
    return mask.numel() - int(mask.count_nonzero())
