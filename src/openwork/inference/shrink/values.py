"""What is known of a tensor before it is computed: which units lie where, and which values are constant."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Axes = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Value:
    """A tensor of the graph.

    Args:
        shape: Its shape for the example.
        axes: The unit of each position, for each dimension; None for one that keeps its size.
        const: The values that do not depend on the model's input, NaN elsewhere; a size of 1 where they are the same
            along a dimension. None where nothing is known.
        name: The parameter or buffer that it is.
    """

    shape: tuple[int, ...]
    axes: Axes
    const: Tensor | None = None
    name: str | None = None

    def known(self, dim: int) -> Tensor:
        """The constant of each position along a dimension, NaN where it has none: (size,) float64."""
        unknown = torch.full((self.shape[dim],), torch.nan, dtype=torch.float64, device="cpu")
        if self.const is None:
            return unknown
        flat = self.const.double().cpu().movedim(dim, 0).reshape(self.const.shape[dim], -1)
        low, high = flat.amin(1), flat.amax(1)  # NaN where one is NaN
        return torch.where((low == high) & low.isfinite(), low, torch.nan).expand(self.shape[dim])


def fixed(shape: Sequence[int]) -> Value:
    """A tensor without units of which nothing is known."""
    return Value(tuple(shape), (None,) * len(shape))


def only_zeros(const: Tensor | None) -> Tensor | None:
    """The constants that are 0; the others are no longer known."""
    return None if const is None else torch.where(const == 0, 0.0, torch.nan)
