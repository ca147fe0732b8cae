"""A sparse matrix dealt to lanes, for products with few columns on a GPU.

The non-zeros of a row, from left to right, are dealt like cards to its lanes: lane c of C takes the non-zeros c, c + C,
c + 2C ... So lanes that run side by side read inputs that lie side by side, and each keeps only the gaps between its own
columns, one byte each. A gap that does not fit a byte is bridged by stored zeros. Rows are sorted by length, and groups
of them, as many as one program computes, are padded with zeros to the length of their longest row (SELL-C-σ:
Kreutzer et al. 2014, arXiv 1307.6209, section 3).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

UNIT = {1: 8, 2: 8, 4: 4}
"""How many values a lane loads at once, by the bytes of a value: 16 bytes, as many as a load can bring."""

MOST_COLUMNS = 16
"""With more columns than this, `lanes_linear` unpacks the matrix and computes a dense product."""

_CELLS = 256  # lanes of one program
_MOST = 255  # the largest gap in a byte


class Lanes(NamedTuple):
    """A packed matrix (out, in).

    Args:
        offsets: (groups + 1,) int32, the unit at which each group of rows begins.
        order: (out,) int32, the row that is computed at each place.
        gaps: (units, rows of a group, lanes of a row, values of a unit) uint8: how far each value's column lies behind
            that of the value before it in its lane; for a lane's first value, the column.
        values: The values, of the same shape; zeros fill.
    """

    offsets: Tensor
    order: Tensor
    gaps: Tensor
    values: Tensor


def lanes_for(density: float) -> int:
    """How many lanes a row of this density (fraction of non-zeros) should have.

    As many as make most gaps fit a byte: they are lanes / density on average. With fewer than eight lanes too few
    programs would be busy.
    """
    return next((lanes for lanes in (32, 16) if lanes <= 220 * density), 8)


def pack(weight: Tensor, lanes: int | None = None) -> Lanes:
    """The matrix in lanes.

    Args:
        weight: (out, in), of a floating dtype of 1, 2 or 4 bytes.
        lanes: Of a row, a power of two of at most 256; by default `lanes_for` its density.
    """
    rows, inputs = weight.shape
    row, column = weight.nonzero(as_tuple=True)
    lanes = lanes or lanes_for(len(row) / max(1, rows * inputs))
    group, unit = _CELLS // lanes, UNIT[weight.element_size()]
    counts = row.bincount(minlength=rows)
    card = torch.arange(len(row), device=weight.device) - (counts.cumsum(0) - counts)[row]
    lane, turn = card % lanes, card // lanes
    turns = -(-int(counts.max()) // lanes) if len(row) else 0
    before = column.new_zeros(rows, turns + 1, lanes)
    before[row, turn + 1, lane] = column
    gap = column - before[row, turn, lane]
    bridges = (gap - 1).clamp(min=0) // _MOST  # stored zeros on the way to each value
    taken = column.new_zeros(rows, turns, lanes)
    taken[row, turn, lane] = 1 + bridges
    ends = taken.cumsum(1)
    length = ends[:, -1].amax(1) if turns else counts
    order = length.argsort(descending=True, stable=True)
    place = torch.empty_like(order).index_copy_(0, order, torch.arange(rows, device=weight.device))
    groups = -(-rows // group)
    longest = torch.cat([length[order], length.new_zeros(groups * group - rows)]).view(groups, group).amax(1)
    offsets = torch.cat([longest.new_zeros(1), (-(-longest // unit)).cumsum(0)])
    shape = (int(offsets[-1]), group, lanes, unit)
    gaps, values = weight.new_zeros(shape, dtype=torch.uint8), weight.new_zeros(shape)
    begin, seat = offsets[place[row] // group], place[row] % group
    end = ends[row, turn, lane] - 1
    for back in range(1, int(bridges.max()) + 1 if len(row) else 1):
        to = bridges >= back
        at = (end - back)[to]
        gaps[begin[to] + at // unit, seat[to], lane[to], at % unit] = _MOST
    at = (begin + end // unit, seat, lane, end % unit)
    gaps[at] = (gap - bridges * _MOST).to(torch.uint8)
    values[at] = weight[row, column]
    return Lanes(offsets.int(), order.int(), gaps, values)


def unpack_plain(offsets: Tensor, order: Tensor, gaps: Tensor, values: Tensor, inputs: int) -> Tensor:
    """The matrix (out, in) that `pack` took, but for the sign of zeros; no step waits for a GPU."""
    units, group, lanes, _ = gaps.shape
    # Sums over all units may wrap around; their differences within a group do not.
    steps = gaps.sum(3, dtype=torch.int32)
    before = steps.cumsum(0, dtype=torch.int32) - steps
    unit = torch.arange(units, dtype=torch.int32, device=gaps.device)
    groups = torch.searchsorted(offsets, unit, right=True) - 1
    before = before - before[offsets[groups].long()] if units else before
    column = before.unsqueeze(3) + gaps.cumsum(3, dtype=torch.int32)
    place = (groups.view(-1, 1) * group + torch.arange(group, device=gaps.device)).clamp(max=len(order) - 1)
    row = order[place].long() if units else place
    nowhere = len(order) * inputs  # where zeros go
    index = torch.where(values != 0, row.view(units, group, 1, 1) * inputs + column, nowhere)
    flat = values.new_zeros(nowhere + 1).scatter_(0, index.flatten(), values.flatten())
    return flat[:-1].view(len(order), inputs).clone()


def unpack(offsets: Tensor, order: Tensor, gaps: Tensor, values: Tensor, inputs: int) -> Tensor:
    """What `unpack_plain` returns, on a GPU by one kernel."""
    if not gaps.is_cuda:
        return unpack_plain(offsets, order, gaps, values, inputs)
    from openwork.kernels.triton import lanes

    return lanes.unpack(offsets, order, gaps, values, inputs)


@torch.library.custom_op("openwork::lanes_linear", mutates_args=())
def lanes_linear(
    x: Tensor, offsets: Tensor, order: Tensor, gaps: Tensor, values: Tensor, bias: Tensor | None
) -> Tensor:
    """``x @ weight.T + bias`` for a packed weight (out, in), summed in float32.

    A GPU computes up to `MOST_COLUMNS` rows of ``x`` from the packed weight. With more, and on a CPU, the weight is
    unpacked for the moment.

    Args:
        x: (..., in), of the values' dtype.
        offsets: As in `Lanes`.
        order: As in `Lanes`.
        gaps: As in `Lanes`.
        values: As in `Lanes`.
        bias: (out,), or None.
    """
    if x.is_cuda and x.numel() <= MOST_COLUMNS * x.shape[-1]:
        from openwork.kernels.triton import lanes

        return lanes.product(x, offsets, order, gaps, values, bias)
    return F.linear(x, unpack(offsets, order, gaps, values, x.shape[-1]), bias)


@lanes_linear.register_fake
def _(x: Tensor, offsets: Tensor, order: Tensor, gaps: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], order.shape[0])
