"""The new order of each cell of channels: found by the search, put in force, and taken back."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openwork.core.masks.rows import NM
from openwork.core.selection import Weight
from openwork.inference.permute.order import Order, source
from openwork.inference.permute.permuted import Permuted, PermutedGroup
from openwork.inference.permute.search import Columns, Reading, search


@dataclass
class _Cell:
    """Channels that may change places, and the weights that read them.

    Args:
        members: Their roots.
        readings: Who reads them where; empty where no group of a mask has two of them.
        now: The root of the channel that comes to the places of another one, by that one's root; empty while all stay.
    """

    members: Tensor
    readings: dict[str, list[Tensor]]
    now: dict[int, int]


class Rearrangement:
    """Cells of channels with their new orders.

    Args:
        order: What following the graph has found.
        weights: Those that will have the pattern.
        scores: Their scores, (out, in, kernel...), by name.
        pattern: The pattern.
    """

    def __init__(self, order: Order, weights: Sequence[Weight], scores: Mapping[str, Tensor], pattern: NM) -> None:
        self.order, self.pattern = order, pattern
        self._roots = order.roots()
        self._columns = {name: one.transpose(0, 1).flatten(1).contiguous() for name, one in scores.items()}
        self._inputs = {weight.name: ids for weight in weights if (ids := _inputs(order, weight)) is not None}
        cells = [_Cell(members, self._readings(members), {}) for members in order.cells(self._roots)]
        self._cells = [cell for cell in cells if cell.readings]

    @property
    def changed(self) -> list[int]:
        """The cells whose channels have a new order."""
        return [number for number, cell in enumerate(self._cells) if cell.now]

    def search(self, until: float, generator: torch.Generator) -> bool:
        """Finds a better order for each cell; whether every search came to its end.

        Args:
            until: When it ends in any case, by `time.monotonic`.
            generator: A CPU generator, seeded.
        """
        columns = {name: Columns(one.clone()) for name, one in self._columns.items()}
        work = [self._work(cell) for cell in self._cells]
        complete = True
        for number, cell in enumerate(self._cells):
            readings = [Reading(columns[name], at) for name, places in cell.readings.items() for at in places]
            begin = time.monotonic()
            share = begin + (until - begin) * work[number] / sum(work[number:])
            now, done = search(readings, self.pattern.n, self.pattern.m, until=share, generator=generator)
            complete &= done
            comes = cell.members[now]
            if not torch.equal(comes, cell.members):
                cell.now = dict(zip(cell.members.tolist(), comes.tolist(), strict=True))
        return complete

    @torch.no_grad()
    def turn(self, cells: Collection[int], *, back: bool = False) -> None:
        """Gives channels of these cells their new places, or, ``back``, their old ones."""
        now = self._now(cells)
        if back:
            now = {comes: at for at, comes in now.items()}
        for name, axes in self.order.axes.items():
            tensor = self.order.tensors[name]
            for dim, ids in enumerate(axes):
                if (comes := source(self._roots, ids, now)) is not None:
                    tensor.copy_(tensor.index_select(dim, comes.to(tensor.device)))

    def forget(self, cells: Collection[int]) -> None:
        """Leaves the channels of these cells at their old places."""
        for number in cells:
            self._cells[number].now = {}

    def report(self, difference: float, *, complete: bool, unread: Sequence[str]) -> Permuted:
        """What the masks keep with the old order and the new one."""
        kept: dict[str, tuple[float, float, float]] = {}
        now = self._now(self.changed)
        n, m = self.pattern.n, self.pattern.m
        for name, scores in self._columns.items():
            before = after = Columns(scores).kept(n, m)
            ids = self._inputs.get(name)
            if ids is not None and (comes := source(self._roots, ids, now)) is not None:
                after = Columns(scores[comes.to(scores.device)]).kept(n, m)
            kept[name] = float(scores.sum(dtype=torch.float64)), before, after
        counts: dict[tuple[str, ...], list[int]] = {}
        for cell in self._cells:
            counts.setdefault(tuple(cell.readings), []).append(len(cell.members))
        groups = [PermutedGroup(tuple(sizes), {name: kept[name] for name in names}) for names, sizes in counts.items()]
        read = {name for names in counts for name in names}
        others = {name: one for name, one in kept.items() if name not in read}
        return Permuted(self.pattern, tuple(groups), others, tuple(unread), difference, complete)

    def _now(self, cells: Collection[int]) -> dict[int, int]:
        return {at: comes for number in cells for at, comes in self._cells[number].now.items()}

    def _readings(self, members: Tensor) -> dict[str, list[Tensor]]:
        """Where each weight reads these channels, once for each time that it reads all of them.

        Where an input lies several times in one group, as several places of a flattened map may, an exchange is no sum
        over groups; then the cell keeps its order.
        """
        found: dict[str, list[Tensor]] = {}
        for name, ids in self._inputs.items():
            roots = self._roots[ids]
            at = torch.isin(roots, members).nonzero().flatten()
            if not len(at):
                continue
            at = at[roots[at].argsort(stable=True)].view(len(members), -1)
            groups = at // self.pattern.m
            lies = torch.zeros(len(members), len(ids) // self.pattern.m, dtype=torch.long, device="cpu")
            lies.scatter_add_(1, groups, torch.ones_like(groups))  # how often each channel lies in each group
            if int(lies.count_nonzero(0).max()) == 1 and int(lies.max()) == self.pattern.m == int(lies[lies > 0].min()):
                continue  # each channel has whole groups of its own
            if int(lies.max()) > 1:
                return {}
            found[name] = list(at.t())
        return found

    def _work(self, cell: _Cell) -> float:
        """About how many operations a round of its search takes."""
        rows = sum(self._columns[name].shape[1] * len(places) for name, places in cell.readings.items())
        return float(rows * len(cell.members) ** 2)


def _inputs(order: Order, weight: Weight) -> Tensor | None:
    """The channel of each input of a weight; None where the graph does not read it, or inputs are no single axis."""
    layout = weight.layout
    name = next((site.name for site in weight.sites if site.name in order.axes), None)
    if layout is None or name is None or layout.axes.count("in") != 1:
        return None
    return order.axes[name][layout.axes.index("in") - (len(layout.axes) - len(layout.stored))]
