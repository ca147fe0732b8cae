"""Units, the things that go or stay as a whole: a channel with all that is added to it, a head with all its features.

Each position of each axis of each parameter begins as a unit of its own. Operations unify the positions that must agree
(the two sides of a sum, what a layer writes and what the next one reads), and pin those that must stay, with a reason.
"""

import torch
from torch import Tensor


class Units:
    """Numbered units, which are unified and pinned while a graph is followed; `roots` then tells who is one."""

    def __init__(self) -> None:
        self.count = 0
        self.pinned: list[tuple[Tensor, str]] = []
        self._pairs: list[tuple[Tensor, Tensor]] = []

    def fresh(self, count: int) -> Tensor:
        """The numbers of ``count`` new units: (count,) int64."""
        self.count += count
        return torch.arange(self.count - count, self.count, device="cpu")

    def unify(self, some: Tensor, others: Tensor) -> None:
        """Makes each of ``some`` one with the unit at the same place of ``others``."""
        self._pairs.append((some.flatten(), others.flatten()))

    def pin(self, ids: Tensor | None, reason: str) -> None:
        """Keeps the units; None has none."""
        if ids is not None:
            self.pinned.append((ids.flatten(), reason))

    def roots(self) -> Tensor:
        """The smallest number among the units that each one is unified with: (count,) int64."""
        label = torch.arange(self.count, device="cpu")
        if not self._pairs:
            return label
        some = torch.cat([pair[0] for pair in self._pairs])
        others = torch.cat([pair[1] for pair in self._pairs])
        while True:
            smaller = torch.minimum(label[some], label[others])
            new = label.scatter_reduce(0, some, smaller, "amin").scatter_reduce(0, others, smaller, "amin")
            new = new[new]
            if torch.equal(new, label):
                return label
            label = new
