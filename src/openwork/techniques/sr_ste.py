"""SR-STE: Zhou et al. 2021, arXiv 2102.04010, section 3: n:m sparsity from scratch by a sparse-refined gradient.

Every forward computes with the n largest of each m neighbours. The gradient goes straight through to all weights, and
those that are left out shrink besides, so that the choice settles.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from openwork.core.masks.patterns import fitting
from openwork.core.masks.rows import NM
from openwork.core.parameters.technique import Reparameterization
from openwork.core.parameters.weight import ReparameterizedWeight
from openwork.core.schedules import Constant, Schedule
from openwork.core.selection import Weight


@dataclass(frozen=True)
class SRSTE(Reparameterization):
    """Keeps exactly n of m neighbouring inputs in every forward; the gradient is g + lambda * (1 - mask) * w.

    ``SRSTE()`` trains 2:4 from the first step. The penalty, which gives the second term, comes on top of weight decay,
    and goes through the moments of an optimizer like Adam as the loss does. With ``Constant(0.0)`` it is the plain
    straight-through estimator. Groups are those of `NM`: input features, input channels at a kernel's position.

    Args:
        coefficient: Lambda, on the gradient.
        pattern: n and m.
    """

    prior: ClassVar[bool] = False

    coefficient: Schedule | None = field(default=Constant(2e-4))
    pattern: NM = field(default=NM(2, 4), kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.pattern, NM):
            raise TypeError(f"pattern must be an instance of NM such as NM(2, 4), got {self.pattern!r}")

    def fitting(self, weights: list[Weight]) -> tuple[list[Weight], dict[str, str]]:
        """The weights whose inputs m divides, and why the others stay dense, by name."""
        return fitting(self.pattern, weights)

    def distribution(self, weight: Tensor, generator: torch.Generator) -> "RefinedWeight":
        """The weight under the mask of the moment."""
        return RefinedWeight(self.pattern.n, self.pattern.m)


class RefinedWeight(ReparameterizedWeight):
    """A weight of which n of m are used, by magnitude; nothing is learned besides."""

    by_rows = True

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.n, self.m = n, m

    def sample(self, weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """W * mask, with the gradient of w."""
        return weight - self.removed(weight).detach()  # w - w is 0, and w - 0 is w

    def effective(self, weight: Tensor) -> Tensor:
        """W * mask."""
        return weight - self.removed(weight)

    def penalty(self, weight: Tensor) -> Tensor:
        """Half the squares of what the mask removes, whose gradient is (1 - mask) * w."""
        return 0.5 * self.removed(weight).square().sum()

    def expected_nonzero(self, weight: Tensor) -> Tensor:
        """N of m."""
        return torch.full((), weight.numel() * self.n // self.m, device=weight.device)

    def removed(self, weight: Tensor) -> Tensor:
        """W * (1 - mask)."""
        layout, magnitudes = self.layout, weight.detach().abs()
        assert layout is not None
        if (axis := layout.input_axis) is None:  # inputs have several axes, or lie apart
            matrices = layout.merged(magnitudes, "outputs")
            return torch.where(layout.as_stored(largest(matrices, self.n, self.m, 1), "outputs"), 0, weight)
        if weight.shape[axis] % self.m:
            raise ValueError(
                f"fully_shard cuts the groups of {self.m} inputs of a weight that stores its inputs first; shard that "
                f"layer over a number of processes that leaves each a multiple of {self.m} rows"
            )
        return torch.where(largest(magnitudes, self.n, self.m, axis), 0, weight)


def largest(magnitudes: Tensor, n: int, m: int, axis: int) -> Tensor:
    """True at the n largest of each m neighbours along an axis, exactly n: the first ones of equals.

    Comparing all pairs is a few elementwise operations, which a compiler fuses into what uses the mask; sorting is not.
    """
    groups = torch.unflatten(magnitudes, axis, (-1, m))
    places = torch.arange(m, device=groups.device).view(m, *(1,) * (groups.dim() - axis - 2))
    rank = torch.zeros_like(groups, dtype=torch.uint8 if m < 256 else torch.int32)
    for place in range(m):
        other = groups.narrow(axis + 1, place, 1)
        rank += torch.where(places > place, other >= groups, other > groups)
    return (rank < n).flatten(axis, axis + 1)
