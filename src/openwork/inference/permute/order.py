"""Which channels of a model may change places, so that it computes the same.

Every position of every axis of a parameter begins as a channel of its own. Operations unify channels that must move
together (the two sides of a sum, what a layer writes and the next one reads), and separate those that must not change
places (features of different heads, what is sliced off, outputs of the model). Channels that lie in the same axes and
were never separated may change places: a sum over them, a norm or a softmax is the same in any order.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from openwork.core.numbers import not_numbers
from openwork.inference.permute.values import Channels, Value, coordinates
from openwork.inference.shrink.trace import Following
from openwork.inference.shrink.units import Units


class Order(Following):
    """What following the nodes of a graph has found.

    Args:
        tensors: The model's parameters and buffers by name.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.axes: dict[str, list[Tensor]] = {}
        """The channels along each axis of the parameters that the graph reads, by name."""
        self.values = {}
        self._units = Units()
        self._separated: list[tuple[Tensor, Tensor]] = []

    def parameter(self, name: str) -> Value:
        """A parameter or buffer: a channel at each position of each axis; none in one that holds codes."""
        tensor = self.tensors[name]
        shape = tuple(tensor.shape)
        if not tensor.is_floating_point() or not_numbers(tensor):
            return Value(shape)
        if name not in self.axes:
            self.axes[name] = [self._units.fresh(size) for size in shape]
        axes = self.axes[name]
        return Value(shape, tuple(Channels((dim,), ids) for dim, ids in enumerate(axes) if len(ids) > 1))

    def unify(self, some: Tensor, others: Tensor) -> None:
        """Makes each of ``some`` one with the channel at the same place of ``others``."""
        self._units.unify(some, others)

    def separate(self, channels: Channels, varying: Sequence[int] | None = None) -> None:
        """Keeps channels apart whose positions differ along some of their dimensions, by default along any."""
        dims = channels.dims if varying is None else varying
        if not dims:
            return
        cells = coordinates(channels.ids.shape, [dim in dims for dim in channels.dims])
        self.keep_apart(channels.ids, cells)

    def keep_apart(self, ids: Tensor, cells: Tensor) -> None:
        """Keeps channels apart that lie in different cells, which are numbers at the same places."""
        self._separated.append((ids.flatten(), cells.flatten()))

    def fix(self, found: Any) -> None:
        """Keeps channels at their places, or all of a value, or of those in a list."""
        if isinstance(found, Channels):
            self.separate(found)
        elif isinstance(found, Value):
            self.fix(list(found.channels))
        elif isinstance(found, list | tuple):
            for one in found:
                self.fix(one)

    def meet(self, values: Sequence[Any], shape: Sequence[int]) -> Value:
        """What tensors of broadcastable shapes make together, element by element."""
        lifted = []
        for value in values:
            if isinstance(value, Value):
                new = len(shape) - len(value.shape)
                lifted.append(value.moved(range(new, len(shape)), (*(1,) * new, *value.shape)))
        found: list[Channels] = []
        for value in lifted:
            for channels in value.channels:
                for other in lifted:
                    if other is not value:
                        self._compare(channels, other)
                if not any(set(known.dims) & set(channels.dims) for known in found):
                    found.append(channels)
        return Value(tuple(shape), tuple(found))

    def _compare(self, channels: Channels, other: Value) -> None:
        varying = [dim for dim in channels.dims if other.shape[dim] > 1]
        for theirs in other.channels:
            if theirs.dims == channels.dims:
                self.unify(channels.ids, theirs.ids)
                return
            if set(theirs.dims) & set(channels.dims):
                self.separate(channels)
                return
        self.separate(channels, varying)

    def multiply(self, left: Value, right: Value, shape: Sequence[int]) -> Value:
        """A matrix product, or many of them, as of `torch.matmul`; both have two dimensions at least.

        Both operands are seen as (batch..., rows, columns, summed), so that the same dimension has the same number.
        """
        rank = len(shape)
        batch = range(rank - 2)
        one = left.moved([*batch[rank - len(left.shape) :], rank - 2, rank], ())
        two = right.moved([*batch[rank - len(right.shape) :], rank, rank - 1], ())
        outer = [(*(1,) * (rank - len(value.shape)), *value.shape[:-2]) for value in (left, right)]
        self._sum(one.along(rank), two.along(rank))
        found: list[Channels] = []
        for value, others in ((one, outer[1]), (two, outer[0])):
            for channels in value.channels:
                if rank not in channels.dims:
                    self.separate(channels, [dim for dim in channels.dims if dim in batch and others[dim] > 1])
                    if not any(set(known.dims) & set(channels.dims) for known in found):
                        found.append(channels)
        return Value(tuple(shape), tuple(found))

    def _sum(self, one: Channels | None, two: Channels | None) -> None:
        """Both factors of a sum over the last dimension have their channels in the same order, for each result."""
        if one is None or two is None:
            self.fix([one, two])
            return
        known = dict(zip(one.dims, one.ids.shape, strict=True)) | dict(zip(two.dims, two.ids.shape, strict=True))
        dims = sorted(known)
        sizes = [known[dim] for dim in dims]
        ids = one.spread(dims, sizes)
        self.unify(ids, two.spread(dims, sizes))
        self.separate(Channels(tuple(dims), ids), dims[:-1])

    def roots(self) -> Tensor:
        """The number that stands for each channel, of those that are unified."""
        return self._units.roots()

    def cells(self, roots: Tensor) -> list[Tensor]:
        """The channels that may change places with each other, two at least, by their roots, ascending."""
        known: dict[int, Counter[tuple[int, int]]] = {}
        axes = [(ids, torch.zeros_like(ids)) for own in self.axes.values() for ids in own]
        for number, (ids, cells) in enumerate([*axes, *self._separated]):
            for root, cell in zip(roots[ids].tolist(), cells.tolist(), strict=True):
                known.setdefault(root, Counter())[number, cell] += 1
        alike: dict[frozenset[tuple[tuple[int, int], int]], list[int]] = {}
        for root in sorted(known):
            alike.setdefault(frozenset(known[root].items()), []).append(root)
        return [torch.tensor(members, device="cpu") for members in alike.values() if len(members) > 1]


def source(roots: Tensor, ids: Tensor, now: Mapping[int, int]) -> Tensor | None:
    """For each position along an axis, the position whose numbers come there; None where all stay.

    Args:
        roots: The root of each channel.
        ids: The channel at each position.
        now: The root of the channel that comes to the places of another one, by that one's root.
    """
    places: dict[int, list[int]] = {}
    for place, root in enumerate(roots[ids].tolist()):
        places.setdefault(root, []).append(place)
    found = torch.arange(len(ids), device="cpu")
    for root in places.keys() & now.keys():
        found[places[root]] = torch.tensor(places[now[root]], device="cpu")
    return None if torch.equal(found, torch.arange(len(ids), device="cpu")) else found
