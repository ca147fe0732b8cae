"""Patterns: where zeros may lie. Single weights here; blocks, rows and columns; n of m, or as many for each output.

A pattern sees a weight with its output dimension first, as `core/layout.py` has it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openwork.core.layout import output_first
from openwork.core.masks.allocations import Allocation
from openwork.core.masks.criterion import Criterion
from openwork.core.masks.threshold import above_threshold, keep_largest
from openwork.core.schedules import Schedule
from openwork.core.selection import Weight


@dataclass(frozen=True)
class Pattern(ABC):
    """Which zeros may go together. An immutable value; shapes are (out, in, kernel...)."""

    def check(self, schedule: Schedule, allocation: Allocation, criterion: Criterion) -> None:
        """Raises ValueError where the pattern cannot follow these three; by default, never."""
        return

    @abstractmethod
    def misfit(self, shape: Sequence[int]) -> str:
        """Why a weight of this shape cannot have the pattern; "" where it can."""

    @abstractmethod
    def group(self, shape: Sequence[int]) -> int:
        """How many weights are kept or removed together."""

    @abstractmethod
    def group_scores(self, scores: Tensor) -> Tensor:
        """The scores to rank by, of the same shape: a group's weights have one in common, and -inf stays -inf."""

    @abstractmethod
    def mask(self, scores: Tensor, keep: int, generator: torch.Generator) -> Tensor:
        """A bool mask, True = keep, with as many of ``keep`` weights as whole groups allow.

        Args:
            scores: What `group_scores` gave.
            keep: How many weights to keep.
            generator: A CPU generator, seeded, to draw between equals.

        """

    def quick(self, scores: Tensor, keep: int) -> Tensor | None:
        """What `mask` gives where no draw is needed, without waiting for the device; None where that gains nothing.

        Where a draw is needed the mask keeps another number of weights, which tells.
        """
        return None


@dataclass(frozen=True)
class Unstructured(Pattern):
    """Single weights, wherever they are. A mask keeps exactly as many as it should."""

    def misfit(self, shape: Sequence[int]) -> str:
        """Always ""."""
        return ""

    def group(self, shape: Sequence[int]) -> int:
        """1."""
        return 1

    def group_scores(self, scores: Tensor) -> Tensor:
        """The scores themselves."""
        return scores

    def mask(self, scores: Tensor, keep: int, generator: torch.Generator) -> Tensor:
        """`keep_largest`."""
        return keep_largest(scores, keep, generator)

    def quick(self, scores: Tensor, keep: int) -> Tensor | None:
        """`above_threshold`."""
        return above_threshold(scores, keep)


def fitting(pattern: Pattern, weights: list[Weight]) -> tuple[list[Weight], dict[str, str]]:
    """The weights that can have the pattern, and why the others cannot, by name. Raises ValueError where none can."""
    reasons = {
        weight.name: pattern.misfit(output_first(weight.parameter, weight.sites[0].module).shape) for weight in weights
    }
    chosen = [weight for weight in weights if not reasons[weight.name]]
    misfits = {name: reason for name, reason in reasons.items() if reason}
    if not chosen:
        listed = "; ".join(f"{name}: {reason}" for name, reason in list(misfits.items())[:12])
        raise ValueError(f"{pattern} fits none of the {len(weights)} selected weights: {listed}")
    return chosen, misfits
