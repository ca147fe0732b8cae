"""Criteria: what a schedule's values mean, a sparsity to reach or a threshold on the scores."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from operator import index
from typing import ClassVar

from torch import Tensor

from openwork.core.masks.allocations import Allocation
from openwork.core.masks.counting import number_of_true, read_back
from openwork.core.masks.scores import like
from openwork.core.schedules import Schedule
from openwork.core.sharded import local, shards_of, sum_each


@dataclass(frozen=True)
class Criterion(ABC):
    """The base of criteria, which turn a schedule's value into the number of weights that each tensor keeps.

    An immutable value.
    """

    allocates: ClassVar[bool] = False
    """Whether the counts are the allocation's, with the schedule's value as the sparsity."""

    @abstractmethod
    def check(self, schedule: Schedule, allocation: Allocation) -> None:
        """Checks that schedule and allocation go with the criterion, when the technique is made.

        Args:
            schedule: The technique's schedule.
            allocation: Its allocation.

        Raises:
            ValueError: If one of them does not.
        """

    @abstractmethod
    def keep(
        self,
        scores: Mapping[str, Tensor],
        value: float,
        schedule: Schedule,
        allocation: Allocation,
        groups: Mapping[str, int],
    ) -> dict[str, int]:
        """How many weights each tensor keeps, by name, when the schedule has reached ``value``.

        Args:
            scores: The scores of each tensor, by name, which share one score within a group; -inf is never kept. Those
                of weights that FSDP2 shards are DTensors.
            value: The schedule's value.
            schedule: The schedule itself, for its ``final`` value.
            allocation: How a sparsity is spread over the tensors.
            groups: How many weights are kept or removed together, by name.
        """


@dataclass(frozen=True)
class Sparsity(Criterion):
    """The schedule's value is the fraction of zeros, in [0, 1), and the allocation spreads it over the tensors."""

    allocates: ClassVar[bool] = True

    def check(self, schedule: Schedule, allocation: Allocation) -> None:
        """Raises ValueError for a sparsity outside [0, 1)."""
        for sparsity in (schedule.final, schedule(0)):
            if not 0 <= sparsity < 1:
                raise ValueError(f"sparsity must be in [0, 1), got {sparsity}; did you pass a percentage?")

    def keep(
        self,
        scores: Mapping[str, Tensor],
        value: float,
        schedule: Schedule,
        allocation: Allocation,
        groups: Mapping[str, int],
    ) -> dict[str, int]:
        """The allocation's counts.

        Raises:
            ValueError: If the schedule's value is outside [0, 1).
        """
        if not 0 <= value < 1:
            raise ValueError(f"sparsity must be in [0, 1), got {value}; check the schedule {schedule}")
        return _counts(allocation, allocation(scores, value, schedule.final, groups), scores)


@dataclass(frozen=True)
class Threshold(Criterion):
    """Every tensor keeps the weights whose scores are at least the schedule's value, however many those are."""

    def check(self, schedule: Schedule, allocation: Allocation) -> None:
        """Raises ValueError for an allocation: there is no sparsity to spread."""
        if not allocation.same_sparsity:
            raise ValueError(f"Threshold() keeps what reaches the threshold; leave out allocation={allocation}")

    def keep(
        self,
        scores: Mapping[str, Tensor],
        value: float,
        schedule: Schedule,
        allocation: Allocation,
        groups: Mapping[str, int],
    ) -> dict[str, int]:
        """The number of scores >= ``value``."""
        reaching = [number_of_true(local(score) >= value) for score in scores.values()]
        shards = [shards_of(tensor) for tensor in like(scores).values()]
        counts = sum_each([int(number) for number in read_back(reaching)], shards)
        return dict(zip(scores, counts, strict=True))


def _counts(allocation: Allocation, keep: object, scores: Mapping[str, Tensor]) -> dict[str, int]:
    """What the allocation returned, as whole numbers. Raises TypeError or ValueError where it is no count of each."""
    if not isinstance(keep, Mapping) or keep.keys() != scores.keys():
        got = ", ".join(map(str, keep)) or "nothing" if isinstance(keep, Mapping) else f"a {type(keep).__name__}"
        raise TypeError(f"{allocation} must return a dict of counts for {', '.join(scores)}, and returned {got}")
    sizes = {name: tensor.numel() for name, tensor in like(scores).items()}
    for name, count in keep.items():
        if not hasattr(count, "__index__") or not 0 <= count <= sizes[name]:
            raise ValueError(
                f"{allocation} must return how many of the {sizes[name]} weights of {name} to keep, and "
                f"returned {count!r}; return a whole number, not a fraction"
            )
    return {name: index(count) for name, count in keep.items()}
