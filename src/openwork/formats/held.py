"""Weights that a state holds in one tensor or several, and the tensors of a state by name."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

ON_MODEL = "report on the live model, or save it without that"


@dataclass(frozen=True)
class Held:
    """A weight and the tensors that hold it.

    Args:
        name: The weight's name in a plain model.
        parts: The names of the tensors, that of the numbers first.
        value: Computes the weight.
        layout: Whose layout it is; "" for a plain tensor.
    """

    name: str
    parts: tuple[str, ...]
    value: Callable[[], Tensor]
    layout: str = ""


class UnreadableLayoutError(ValueError):
    """A weight whose zeros cannot be known from the tensors that are there."""


class State(dict[str, Tensor]):
    """The tensors of a state by name."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self._sorted = sorted(tensors)

    def under(self, prefix: str) -> Iterator[str]:
        """The names that begin with a prefix."""
        for name in self._sorted[bisect_left(self._sorted, prefix) :]:
            if not name.startswith(prefix):
                return
            yield name


def masked(weight: Tensor, mask: Tensor) -> Tensor:
    """The weight, 0 where the mask is 0."""
    return torch.where(mask != 0, weight, torch.zeros((), dtype=weight.dtype, device=weight.device))
