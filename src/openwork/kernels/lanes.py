"""A sparse matrix in lanes, for products with few columns on a GPU.

Each row's non-zeros are spread over lanes, which run side by side, and a lane keeps the gaps between its columns
instead of the columns. Rows of which much is left are cut into stretches, one a lane, with gaps of 4 bits. Others are
dealt like cards: lane c of C takes the non-zeros c, c + C, c + 2C ..., so that lanes read inputs that lie side by side,
with gaps of 8 bits. A longer gap is bridged by stored zeros. Rows are sorted by length, and as many as one program
computes are padded with zeros to the length of the longest (SELL-C-σ: Kreutzer et al. 2014, arXiv 1307.6209, section 3;
gaps of 4 bits: Macko and Boža 2025, arXiv 2511.13061).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from openwork.kernels.paths import Path, triton_or_plain

UNIT = {2: 8, 4: 4}
"""How many values a lane loads at once, by the bytes of a value: 16 bytes, as many as a load can bring."""

WIDEST = 16_384
"""The most inputs that programs keep in the shared memory, where lanes may read them in any order."""

MOST_COLUMNS = 16
"""With more columns than this, `lanes_linear` unpacks the matrix and computes a dense product."""

_AT_ONCE = 2**22  # weights that are packed at once, which takes some 100 bytes for each that is not zero


class Lanes(NamedTuple):
    """A packed matrix (out, in).

    Args:
        offsets: (groups + 1,) int32, the unit at which each group of rows begins.
        order: (out,) int32, the row that is computed at each place.
        starts: (groups, rows of a group, lanes of a row) int16, or int32 where some do not fit: the column of each
            lane's first value.
        gaps: (units, rows of a group, lanes of a row, bytes of a unit) uint8: how far each value's column lies behind
            that of the value before it in its lane, 0 for the first; one or two a byte, the low bits first.
        values: (units, rows of a group, lanes of a row, values of a unit); zeros fill.
    """

    offsets: Tensor
    order: Tensor
    starts: Tensor
    gaps: Tensor
    values: Tensor


def path(device: torch.device, dtype: torch.dtype) -> Path:
    """The way of `lanes_linear` with up to `MOST_COLUMNS` rows of inputs, and of `unpack`."""
    return triton_or_plain(device, dtype)


def layout(rows: int, inputs: int, density: float) -> tuple[int, int]:
    """(lanes of a row, bits of a gap) that were fastest for a matrix like this on an H100.

    The gaps of dealt rows are lanes / density on average: as many lanes as make most of them fit a byte, but not fewer
    than eight. With many rows there is enough to do for all of the GPU with half as many lanes.

    Args:
        rows: Of the matrix.
        inputs: Its columns.
        density: The fraction of non-zeros.
    """
    halved = rows > 8192
    if density >= 0.15 and inputs <= WIDEST:
        return 32 >> halved, 4
    return max(8, next((lanes for lanes in (32, 16) if lanes <= 220 * density), 8) >> halved), 8


def pack(weight: Tensor, lanes: int = 0, bits: int = 0) -> Lanes:
    """The matrix in lanes.

    Args:
        weight: (out, in), of a floating dtype of 2 or 4 bytes.
        lanes: Of a row, a power of two of at most 256; 0 for that of `layout`.
        bits: Of a gap: 4 cuts rows into stretches, 8 deals them; 0 for those of `layout`.
    """
    rows, inputs = weight.shape
    counts = (weight != 0).sum(1)
    usual = layout(rows, inputs, float(counts.sum()) / max(1, rows * inputs))
    lanes, bits = lanes or usual[0], bits or usual[1]
    group = (512 if bits == 4 else 256) // lanes
    order = counts.argsort(descending=True, stable=True)
    at_once = group * max(1, _AT_ONCE // max(1, inputs * group))
    parts = [_pack_groups(weight, some, group, lanes, bits) for some in torch.split(order, at_once)]
    units, order, starts, gaps, values = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    offsets = torch.cat([units.new_zeros(1), units.cumsum(0)])
    return Lanes(offsets.int(), order.int(), starts, gaps, values)


def _pack_groups(weight: Tensor, some: Tensor, group: int, lanes: int, bits: int) -> tuple[Tensor, ...]:
    """(units of each group, order, starts, gaps, values) of some rows."""
    inputs, rows, unit = weight.shape[1], len(some), UNIT[weight.element_size()]
    weight = weight[some]
    row, column = weight.nonzero(as_tuple=True)
    counts = row.bincount(minlength=rows)
    number = torch.arange(len(row), device=weight.device) - (counts.cumsum(0) - counts)[row]
    stretch = -(-counts // lanes)
    if bits == 4:
        lane, turn = number // stretch[row], number % stretch[row]
    else:
        lane, turn = number % lanes, number // lanes
    columns = column.new_zeros(rows, max(1, int(stretch.max())), lanes)
    columns[row, turn, lane] = column
    gap = torch.where(turn > 0, column - columns[row, turn - 1, lane], 0)
    longest_gap = 2**bits - 1
    bridges = (gap - 1).clamp(min=0) // longest_gap  # stored zeros on the way to each value
    taken = torch.zeros_like(columns)
    taken[row, turn, lane] = 1 + bridges
    ends = taken.cumsum(1)
    length = ends[:, -1].amax(1)
    order = length.argsort(descending=True, stable=True)
    place = torch.empty_like(order).index_copy_(0, order, torch.arange(rows, device=order.device))[row]
    missing = -rows % group
    units = -(-F.pad(length[order], (0, missing)).view(-1, group).amax(1) // unit)
    shape = (int(units.sum()), group, lanes, unit)
    gaps, values = weight.new_zeros(shape, dtype=torch.uint8), weight.new_zeros(shape)
    begin, seat = (units.cumsum(0) - units)[place // group], place % group
    end = ends[row, turn, lane] - 1
    for back in range(1, int(bridges.max()) + 1 if len(row) else 1):
        far = bridges >= back
        at = (end - back)[far]
        gaps[begin[far] + at // unit, seat[far], lane[far], at % unit] = longest_gap
    where = (begin + end // unit, seat, lane, end % unit)
    gaps[where] = (gap - bridges * longest_gap).to(torch.uint8)
    values[where] = weight[row, column]
    if bits == 4:
        gaps = gaps[..., ::2] | gaps[..., 1::2] << 4
    starts = columns[order, 0].to(torch.int16 if inputs <= 2**15 else torch.int32)
    return units, some[order], F.pad(starts, (0, 0, 0, missing)).view(-1, group, lanes), gaps, values


def unpack_plain(offsets: Tensor, order: Tensor, starts: Tensor, gaps: Tensor, values: Tensor, inputs: int) -> Tensor:
    """The matrix (out, in) that `pack` took, but for the sign of zeros; no step waits for a GPU."""
    units, group, _, unit = values.shape
    if not units:
        return values.new_zeros(len(order), inputs)
    if gaps.shape[3] < unit:
        gaps = torch.stack([gaps & 15, gaps >> 4], 4).flatten(3)
    # Sums over all units may wrap around; their differences within a group do not.
    steps = gaps.sum(3, dtype=torch.int32)
    before = steps.cumsum(0, dtype=torch.int32) - steps
    numbers = torch.arange(units, dtype=torch.int32, device=gaps.device)
    groups = torch.searchsorted(offsets, numbers, right=True) - 1
    before = before - before[offsets[groups].long()] + starts[groups]
    column = before.unsqueeze(3) + gaps.cumsum(3, dtype=torch.int32)
    place = (groups.view(-1, 1) * group + torch.arange(group, device=gaps.device)).clamp(max=len(order) - 1)
    nowhere = len(order) * inputs  # where zeros go
    index = torch.where(values != 0, order[place].long().view(units, group, 1, 1) * inputs + column, nowhere)
    flat = values.new_zeros(nowhere + 1).scatter_(0, index.flatten(), values.flatten())
    return flat[:-1].view(len(order), inputs).clone()


def unpack(offsets: Tensor, order: Tensor, starts: Tensor, gaps: Tensor, values: Tensor, inputs: int) -> Tensor:
    """What `unpack_plain` returns, on a GPU by one kernel."""
    if path(values.device, values.dtype).name == "plain":
        return unpack_plain(offsets, order, starts, gaps, values, inputs)
    from openwork.kernels.triton import lanes

    return lanes.unpack(offsets, order, starts, gaps, values, inputs)


@torch.library.custom_op("openwork::lanes_linear", mutates_args=())
def lanes_linear(
    x: Tensor, offsets: Tensor, order: Tensor, starts: Tensor, gaps: Tensor, values: Tensor, bias: Tensor | None
) -> Tensor:
    """``x @ weight.T + bias`` for a packed weight (out, in), summed in float32.

    A GPU computes up to `MOST_COLUMNS` rows of ``x`` from the packed weight. With more, and on a CPU, the weight is
    unpacked for the moment.

    Args:
        x: (..., in), of the values' dtype.
        offsets: This and the following as in `Lanes`.
        order: See there.
        starts: See there.
        gaps: See there.
        values: See there.
        bias: (out,), or None.
    """
    if x.numel() <= MOST_COLUMNS * x.shape[-1] and path(x.device, x.dtype).name == "Triton":
        from openwork.kernels.triton import lanes

        return lanes.product(x, offsets, order, starts, gaps, values, bias)
    return F.linear(x, unpack(offsets, order, starts, gaps, values, x.shape[-1]), bias)


@lanes_linear.register_fake
def _(
    x: Tensor, offsets: Tensor, order: Tensor, starts: Tensor, gaps: Tensor, values: Tensor, bias: Tensor | None
) -> Tensor:
    return x.new_empty(*x.shape[:-1], order.shape[0])
