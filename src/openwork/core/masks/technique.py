"""Mask techniques: immutable values that say which weights are zero, and when."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from openwork.core.masks.allocations import Allocation, Uniform
from openwork.core.masks.criterion import Criterion, Sparsity
from openwork.core.masks.evidence import Evidence, View
from openwork.core.masks.interface import check_methods, check_parts
from openwork.core.masks.mechanism import Masking
from openwork.core.masks.patterns import Pattern, Unstructured, fitting
from openwork.core.schedules import Schedule
from openwork.core.selection import Weight
from openwork.core.technique import Technique, check_schedule

Hidden = Literal["frozen", "trained", "lost"]


@dataclass(frozen=True)
class MaskTechnique(Technique, ABC):
    """The base of techniques that say which weights are zero, by their `scores`; some need further methods.

    Args:
        schedule: The sparsity in [0, 1) at each step, and the steps at which masks are recomputed.
        criterion: What the schedule's values are: `Sparsity`, or `Threshold` on the scores.
        allocation: How a sparsity is spread over the tensors.
        hidden: What becomes of a value under the mask. "frozen": remembered as it was when masked; "trained": moved on
            by leftover momentum and weight decay, as in TensorFlow's model_pruning; "lost": forgotten.
        pattern: Where the zeros may lie.

    Raises:
        TypeError: If ``schedule`` is no schedule, or criterion, allocation or pattern is none.
        ValueError: If the sparsity is outside [0, 1), or criterion or pattern cannot follow schedule or allocation.
    """

    varying: ClassVar[tuple[str, ...]] = ("schedule",)
    dense_gradients: ClassVar[bool] = False
    """Whether the gradient of the masked model also moves the weights under the mask (needs hidden="trained")."""
    regrows: ClassVar[bool] = False
    """Whether weights come back by `growth`, in the places that `exchange` frees."""
    solves: ClassVar[bool] = False
    """Whether `solve` finds mask and weights together, instead of `scores` choosing the weights to keep."""

    schedule: Schedule
    criterion: Criterion = field(default=Sparsity(), kw_only=True)
    allocation: Allocation = field(default=Uniform(), kw_only=True)
    hidden: Hidden = field(default="frozen", kw_only=True)
    pattern: Pattern = field(default=Unstructured(), kw_only=True)

    def __post_init__(self) -> None:
        check_schedule("schedule", self.schedule, "OneShot")
        check_parts(self)
        self.criterion.check(self.schedule, self.allocation)
        if self.hidden not in ("frozen", "trained", "lost"):
            raise ValueError(f"hidden must be 'frozen', 'trained' or 'lost', got {self.hidden!r}")
        self.pattern.check(self.schedule, self.allocation, self.criterion)

    @property
    def evidence(self) -> Evidence:
        """What the technique gathers from gradients and inputs, for `View.evidence`; by default nothing."""
        return Evidence()

    @property
    def rounds(self) -> int:
        """How often masks are chosen before training, each time by new evidence; by default once.

        The fraction that is kept falls from 1 to the schedule's by the same factor in each round.
        """
        return 1

    @abstractmethod
    def scores(self, view: View) -> Tensor:
        """Scores of the weight's shape and sharding: the largest are kept, -inf never.

        Args:
            view: The weight as it is now, and what the technique's ``evidence`` has kept.
        """

    def all_scores(self, views: Sequence[View]) -> list[Tensor]:
        """The `scores` of many weights; for a technique that can compute them with fewer launches on a GPU.

        Args:
            views: What `scores` takes, for each weight; all of them whole, or sharded over the same processes.
        """
        return [self.scores(view) for view in views]

    def growth(self, view: View) -> Tensor:
        """Scores by which weights come back, of the weight's shape; only for a technique that ``regrows``.

        At an update the best by `scores` survive, as many as `exchange` leaves. Of all others, including those that
        have just lost their place, the best by `growth` take the free places. A weight that comes back begins at its
        hidden value; with hidden="lost" it begins at 0.

        Args:
            view: The weight before the update, and what the technique's ``evidence`` has kept.
        """
        raise NotImplementedError

    def exchange(self, step: int) -> float:
        """The fraction in [0, 1] of the kept weights that makes room for `growth` after ``step`` optimizer steps."""
        return 0.0

    def restarts(self, step: int) -> bool:
        """Whether the optimizer's state of the selected weights begins anew with the masks of a step; by default not.

        With hidden="trained" the optimizer's state is never touched.

        Args:
            step: Completed optimizer steps, at which masks are recomputed.
        """
        return False

    def solve(self, view: View, keep: int, ties: torch.Generator) -> tuple[Tensor, Tensor]:
        """The mask and the weights; only for a technique that ``solves`` for both. Its `scores` serve allocations only.

        Args:
            view: The weight, and what the technique's ``evidence`` has kept.
            keep: How many weights to keep, in whole groups of the pattern.
            ties: A CPU generator, seeded, to draw between equals.

        Returns:
            A bool mask with ``keep`` True that has the pattern, and finite weights, both of the weight's shape; of any
            dtype and on any device, since they are cast to the weight's.
        """
        raise NotImplementedError

    def fitting(self, weights: list[Weight]) -> tuple[list[Weight], dict[str, str]]:
        """The weights that can have the pattern, and why the others cannot, by name."""
        return fitting(self.pattern, weights)

    def mechanism(self, weights: list[Weight], *, seed: int, keep_zeros: bool) -> Masking:
        """Masks for these weights."""
        check_methods(self, MaskTechnique)
        return Masking(self, weights, seed=seed, keep_zeros=keep_zeros)
