"""Patterns that count along the inputs of each output: n of m neighbours, or the same number for every output."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openwork.core.layout import Along
from openwork.core.masks.allocations import Allocation
from openwork.core.masks.criterion import Criterion
from openwork.core.masks.patterns import Pattern
from openwork.core.masks.threshold import keep_largest
from openwork.core.schedules import Schedule


@dataclass(frozen=True)
class NM(Pattern):
    """At most ``n`` non-zeros in every group of ``m`` consecutive inputs, in the end; hardware runs 2:4.

    A group is m consecutive input features of one output of a Linear, m consecutive input channels at one kernel
    position of one filter, or m consecutive features of one token. The n best of a group stay. The others go in the
    order of their scores while the schedule rises, so that counts are exact all the way; at its end all have gone. The
    final sparsity is therefore 1 - n/m, the same in every tensor, and the schedule must end there.

    A tensor whose number of inputs m does not divide is skipped.

    Args:
        n: How many weights of a group stay.
        m: The size of a group.

    Raises:
        ValueError: Unless 1 <= n < m.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 1 <= self.n < self.m:
            raise ValueError(f"NM needs 1 <= n < m, got n={self.n}, m={self.m}; NM(2, 4) keeps 2 of 4")

    @property
    def along(self) -> Along:
        """As more outputs, each of which it looks at on its own."""
        return "outputs"

    def check(self, schedule: Schedule, allocation: Allocation, criterion: Criterion) -> None:
        """Raises ValueError unless the schedule ends at 1 - n/m, starts no higher, and every tensor has its value."""
        final = 1 - self.n / self.m
        if abs(schedule.final - final) > 1e-9:
            raise ValueError(
                f"{self} ends at sparsity 1 - {self.n}/{self.m} = {final:.6g} and the schedule at {schedule.final}; "
                f"give the schedule final={1 - self.n / self.m!r}"
            )
        if schedule(0) > final + 1e-9:
            raise ValueError(f"{self} never goes beyond sparsity {final:.6g}, and the schedule starts at {schedule(0)}")
        check_same_sparsity(self, allocation, criterion)

    def misfit(self, shape: Sequence[int]) -> str:
        """Inputs not divisible."""
        return f"{self.m} does not divide its {shape[1]} inputs" if shape[1] % self.m or not math.prod(shape) else ""

    def group(self, shape: Sequence[int]) -> int:
        """1: weights leave one by one."""
        return 1

    def span(self, shape: Sequence[int]) -> int:
        """m: a group has nothing to do with others."""
        return self.m

    def mask_of_span(self, scores: Tensor) -> Tensor:
        """The n best."""
        best = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, scores.topk(self.n, dim=1).indices, True)
        return best & (scores > -math.inf)

    def group_scores(self, scores: Tensor) -> Tensor:
        """The scores themselves."""
        return scores

    def mask(self, scores: Tensor, keep: int, generator: torch.Generator) -> Tensor:
        """The n best of each group, and of the others the best that there is room for; fewer where ``keep`` is."""
        split = scores.reshape(scores.shape[0], -1, self.m, *scores.shape[2:])
        places = split.movedim(2, 0).contiguous()  # (m, out, in / m, kernel...)
        first = self._first(places.flatten(1), generator).view_as(places)
        # Where a group has fewer than n weights to keep, no other takes their place: its zeros add to the target.
        room = keep - places[0].numel() * self.n
        if room < 0:
            mask = keep_largest(torch.where(first, places, -math.inf), keep, generator)
        else:
            mask = first | keep_largest(torch.where(first, -math.inf, places), room, generator)
        return mask.movedim(0, 2).flatten(1, 2)

    def _first(self, places: Tensor, generator: torch.Generator) -> Tensor:
        """True at the n largest of each column of ``places`` (m, groups); ties are drawn, -inf and NaN never taken."""
        # For 2:4 on a CPU, comparing all places in bytes takes a quarter of the time of sorting many short rows.
        number = torch.uint8 if self.m < 256 else torch.int32
        larger = torch.zeros_like(places, dtype=number)
        for place in range(self.m):
            larger += places[place] > places
        first = (larger < self.n) & (places > -math.inf)
        tied = (first.sum(0, dtype=number) > self.n).nonzero().flatten()
        if tied.numel():
            some = places[:, tied]
            drawn = torch.rand(some.shape, generator=generator, dtype=torch.float32, device="cpu")
            shuffled = drawn.argsort(0).to(some.device)
            order = some.gather(0, shuffled).argsort(dim=0, descending=True, stable=True)
            chosen = torch.zeros_like(some, dtype=torch.bool)
            first[:, tied] = chosen.scatter_(0, shuffled.gather(0, order)[: self.n], True)
        return first


@dataclass(frozen=True)
class PerOutput(Pattern):
    """The same number of weights for every output: its best ones, as Wanda compares them (arXiv 2306.11695).

    An output is a row of a Linear or a filter of a convolution. Where the count does not divide by the outputs, those
    whose next weight scores best keep one weight more, so that the sparsity is exact.
    """

    @property
    def along(self) -> Along:
        """As more outputs, each of which it looks at on its own."""
        return "outputs"

    def check(self, schedule: Schedule, allocation: Allocation, criterion: Criterion) -> None:
        """Raises ValueError for a criterion or an allocation by which weights of all outputs compete."""
        if not criterion.allocates or allocation.one_threshold:
            other = f"allocation={allocation}" if criterion.allocates else f"criterion={criterion}"
            raise ValueError(f"{self} compares the weights of each output alone; leave out {other}")

    def misfit(self, shape: Sequence[int]) -> str:
        """No weights."""
        return "" if math.prod(shape) else "it has no weights"

    def group(self, shape: Sequence[int]) -> int:
        """1: weights leave one by one."""
        return 1

    def portion(self, shape: Sequence[int]) -> int:
        """One for each output."""
        return shape[0]

    def group_scores(self, scores: Tensor) -> Tensor:
        """The scores themselves."""
        return scores

    def mask(self, scores: Tensor, keep: int, generator: torch.Generator) -> Tensor:
        """The keep // outputs best of each, and the best of the next ones; more of each where others have too few."""
        rows = scores.flatten(1)
        shuffled = torch.randperm(rows.shape[1], generator=generator, device="cpu").to(rows.device)  # equals are drawn
        order = shuffled[rows[:, shuffled].argsort(dim=1, descending=True, stable=True)]
        usable = (rows > -math.inf).sum(1)
        each, rest = divmod(keep, rows.shape[0])
        if int(usable.min()) < each + bool(rest):
            each, rest = _level(usable.tolist(), keep)
        mask = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order[:, :each], True)
        if rest:
            following = order[:, each : each + 1]
            extra = keep_largest(rows.gather(1, following), rest, generator)
            mask.scatter_(1, following, extra)
        return (mask & (rows > -math.inf)).view_as(scores)


def _level(usable: list[int], keep: int) -> tuple[int, int]:
    """How many each row keeps, as far as it has so many, and how many rows keep one more, to keep ``keep`` in all."""
    each, rest = 0, min(keep, sum(usable))
    while (more := sum(number > each for number in usable)) and rest >= more:
        step = min(rest // more, min(number for number in usable if number > each) - each)
        each, rest = each + step, rest - step * more
    return each, rest


def check_same_sparsity(pattern: Pattern, allocation: Allocation, criterion: Criterion) -> None:
    """Raises ValueError for a criterion or an allocation under which tensors differ in their sparsity."""
    if not (criterion.allocates and allocation.same_sparsity):
        other = f"allocation={allocation}" if criterion.allocates else f"criterion={criterion}"
        raise ValueError(f"{pattern} gives every tensor the same sparsity; leave out {other}")
