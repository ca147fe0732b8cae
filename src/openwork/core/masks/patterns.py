"""Patterns: where zeros may lie. The base class, and single weights; `blocks.py` and `rows.py` have the others.

A pattern sees a weight with its output dimension first, as `core/layout.py` has it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from openwork.core.layout import Along, unknown_layout
from openwork.core.masks.allocations import Allocation
from openwork.core.masks.criterion import Criterion
from openwork.core.masks.threshold import Kept, keep_largest, keep_largest_of_each
from openwork.core.schedules import Schedule
from openwork.core.selection import Weight


@dataclass(frozen=True)
class Pattern(ABC):
    """The base of patterns, which say where zeros may lie. An immutable value; shapes are (out, in, kernel...)."""

    whole_tensors: ClassVar[bool] = True
    """Whether it looks at where a weight lies, with its outputs first, and so needs whole tensors."""

    @property
    def along(self) -> Along | None:
        """Where it sees the matrices of one tensor, such as those of experts, side by side; None: it sees only one.

        ``"outputs"``: as (matrices * out, in, kernel...), for a pattern that looks at each output on its own;
        ``"inputs"``: as (out, matrices * in, kernel...).
        """
        return None

    def check(self, schedule: Schedule, allocation: Allocation, criterion: Criterion) -> None:
        """Checks that the pattern can follow these three, when the technique is made; by default it can.

        Args:
            schedule: The technique's schedule.
            allocation: Its allocation.
            criterion: Its criterion.

        Raises:
            ValueError: If the pattern cannot follow one of them.
        """
        return

    @abstractmethod
    def misfit(self, shape: Sequence[int]) -> str:
        """Why a weight whose matrix has this ``shape`` cannot have the pattern; "" where it can."""

    @abstractmethod
    def group(self, shape: Sequence[int]) -> int:
        """How many weights of a tensor of this ``shape`` are kept or removed together."""

    @abstractmethod
    def group_scores(self, scores: Tensor) -> Tensor:
        """The ``scores`` to rank by, of the same shape: one for all weights of a group; -inf stays -inf."""

    @abstractmethod
    def mask(self, scores: Tensor, keep: int, generator: torch.Generator) -> Tensor:
        """A bool mask, True = keep, with as many of ``keep`` weights as whole groups allow.

        Args:
            scores: What `group_scores` gave.
            keep: How many weights to keep.
            generator: A CPU generator, seeded, to draw between equals.
        """

    def span(self, shape: Sequence[int]) -> int | None:
        """How many neighbouring inputs it decides on together and apart from all others; None where all compete.

        A solver that goes from input to input chooses so many at once, and knows by then what became of those before.

        Args:
            shape: (out, in, kernel...).
        """
        return None

    def mask_of_span(self, scores: Tensor) -> Tensor:
        """The final mask of one span; ties go to any of the equals, so that nothing waits for the device.

        Args:
            scores: (out, span, kernel...); -inf is never kept.
        """
        raise NotImplementedError

    def portion(self, shape: Sequence[int]) -> int:
        """What divides the number of weights that a part of the inputs keeps; the last part has the rest.

        Args:
            shape: The part's, (out, inputs, kernel...).
        """
        return self.group(shape)

    def mask_of_matrices(self, scores: Tensor, keep: int, generator: torch.Generator) -> Tensor:
        """`mask` for matrices (matrices, out, in, kernel...) that lie side by side; it groups the scores itself.

        Args:
            scores: One for each weight; -inf is never kept.
            keep: As for `mask`.
            generator: As for `mask`.
        """
        if not self.whole_tensors:
            return self.mask(self.group_scores(scores), keep, generator)
        if self.along != "inputs":
            merged = scores.flatten(0, 1)
            return self.mask(self.group_scores(merged), keep, generator).view(scores.shape)
        merged = scores.transpose(0, 1).flatten(1, 2)
        mask = self.mask(self.group_scores(merged), keep, generator)
        return mask.view(*scores.transpose(0, 1).shape).transpose(0, 1)

    def select(
        self, scores: Sequence[Tensor], keep: Sequence[int], generator: Callable[[int], torch.Generator]
    ) -> Kept | None:
        """What `mask` returns for each of many tensors, found for all at once; None, as by default, where it cannot be.

        Args:
            scores: What `group_scores` gave for each.
            keep: How many weights to keep of each.
            generator: The generator of each, by its place.
        """
        return None


@dataclass(frozen=True)
class Unstructured(Pattern):
    """Single weights, wherever they are. A mask keeps exactly as many as it should."""

    whole_tensors: ClassVar[bool] = False

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

    def select(
        self, scores: Sequence[Tensor], keep: Sequence[int], generator: Callable[[int], torch.Generator]
    ) -> Kept | None:
        """`keep_largest_of_each`, unless a subclass has a ``mask`` of its own."""
        own = type(self).mask is not Unstructured.mask
        return None if own else keep_largest_of_each(scores, keep, generator)


def fitting(pattern: Pattern, weights: list[Weight]) -> tuple[list[Weight], dict[str, str]]:
    """The weights that can have the pattern, and why the others cannot, by name.

    Raises:
        ValueError: If no weight can.
    """
    reasons = {weight.name: _misfit(pattern, weight) for weight in weights}
    chosen = [weight for weight in weights if not reasons[weight.name]]
    misfits = {name: reason for name, reason in reasons.items() if reason}
    if not chosen:
        listed = "; ".join(f"{name}: {reason}" for name, reason in list(misfits.items())[:12])
        raise ValueError(f"{pattern} fits none of the selected weights: {listed}")
    return chosen, misfits


def _misfit(pattern: Pattern, weight: Weight) -> str:
    """Why the weight cannot have the pattern; "" where it can."""
    stored = tuple(weight.parameter.shape)
    if not pattern.whole_tensors:
        return pattern.misfit(stored)
    if len(stored) < 2:
        return f"{pattern} needs a matrix, and its shape is {stored}"
    if (layout := weight.layout) is None:
        return unknown_layout(weight.sites[0].module, weight.sites[0].leaf, stored)
    matrices, *matrix = layout.shape
    if matrices > 1 and pattern.along is None:
        return f"{pattern} sees one matrix, and it holds {matrices}; say where they lie with the property along"
    if reason := pattern.misfit(matrix):
        return reason
    merged = layout.merged_shape(pattern.along or "outputs")
    if pattern.group(merged) == math.prod(merged):  # it could only be kept
        return f"its {merged[0]} x {math.prod(merged[1:])} matrix is a single block of {pattern}"
    return ""
