"""Which channel lies where in a tensor of the graph."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Channels(NamedTuple):
    """The channel at each position of some dimensions of a tensor, the same at all positions of the others.

    Args:
        dims: The dimensions, ascending; two or more as in (heads, features of a head).
        ids: The channel's number: of the sizes of ``dims``, none of which is 1.
    """

    dims: tuple[int, ...]
    ids: Tensor

    def moved(self, places: Sequence[int]) -> "Channels":
        """The same channels where dimension d of their tensor has become ``places[d]``."""
        order = sorted(range(len(self.dims)), key=lambda place: places[self.dims[place]])
        return Channels(tuple(places[self.dims[place]] for place in order), self.ids.permute(order))

    def spread(self, dims: Sequence[int], sizes: Sequence[int]) -> Tensor:
        """The channel at each position of these dimensions, which are ascending and hold those of the channels."""
        own = [size if dim in self.dims else 1 for dim, size in zip(dims, sizes, strict=True)]
        return self.ids.reshape(own).expand(tuple(sizes))


@dataclass(frozen=True)
class Value:
    """A tensor of the graph.

    Args:
        shape: Its shape for the example.
        channels: Those that may get another order, by the dimensions along which they lie, which do not overlap.
    """

    shape: tuple[int, ...]
    channels: tuple[Channels, ...] = ()

    def along(self, dim: int) -> Channels | None:
        """Those that lie along a dimension."""
        return next((one for one in self.channels if dim in one.dims), None)

    def moved(self, places: Sequence[int], shape: Sequence[int]) -> "Value":
        """The same tensor where its dimension d has become ``places[d]``."""
        return Value(tuple(shape), tuple(one.moved(places) for one in self.channels))


def grid(ids: Tensor, first: int = 0) -> Channels | None:
    """The channels of a tensor whose dimensions begin at ``first``, without those along which nothing changes."""
    kept = []
    for dim in range(ids.dim()):
        if ids.shape[dim] > 1 and bool((ids != ids.narrow(dim, 0, 1)).any()):
            kept.append(dim)
        else:
            ids = ids.narrow(dim, 0, 1)
    if not kept:
        return None
    return Channels(tuple(first + dim for dim in kept), ids.reshape([ids.shape[dim] for dim in kept]))


def coordinates(sizes: Sequence[int], varying: Sequence[bool]) -> Tensor:
    """A number for each position of a grid that tells the coordinates of the ``varying`` dimensions apart."""
    found = torch.zeros(tuple(sizes), dtype=torch.long, device="cpu")
    for dim, size in enumerate(sizes):
        if varying[dim]:
            steps = torch.arange(size, device="cpu").reshape(
                [size if place == dim else 1 for place in range(len(sizes))]
            )
            found = found * size + steps
    return found
