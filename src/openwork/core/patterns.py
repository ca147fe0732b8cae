"""Patterns: where zeros may lie. Single weights, blocks, rows, columns, or n of m.

A pattern sees a weight with its output dimension first, (out, in, kernel...), as Linear, Conv, LSTM and attention store
it. Embedding is taken as stored, (tokens, features), like the softmax weight that it is often tied to. ConvTranspose
and the Conv1D of transformers store (in, out, ...) and are transposed. Rows of a grouped convolution hold the inputs of
its group; a row of a grouped ConvTranspose is one output map of every group.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from openwork.core.allocations import Allocation, Uniform
from openwork.core.schedules import Schedule
from openwork.core.selection import Weight
from openwork.core.sharded import local, shards_of
from openwork.core.threshold import keep_largest


@dataclass(frozen=True)
class Pattern(ABC):
    """Which zeros may go together. An immutable value; shapes are (out, in, kernel...)."""

    def check(self, schedule: Schedule, allocation: Allocation) -> None:
        """Raises ValueError where the pattern cannot follow this schedule or allocation; by default, never."""
        return

    @abstractmethod
    def misfit(self, shape: Sequence[int]) -> str:
        """Why a weight of this shape cannot have the pattern; "" where it can."""

    @abstractmethod
    def group(self, shape: Sequence[int]) -> int:
        """How many weights are kept or removed together."""

    @abstractmethod
    def share(self, scores: Tensor) -> Tensor:
        """The scores to rank by, of the same shape: a group's weights share one, and -inf stays -inf."""

    @abstractmethod
    def mask(self, scores: Tensor, keep: int, generator: torch.Generator) -> Tensor:
        """A bool mask, True = keep, with as many of ``keep`` weights as whole groups allow; scores are shared ones."""


@dataclass(frozen=True)
class Unstructured(Pattern):
    """Single weights, wherever they are. A mask keeps exactly as many as it should."""

    def misfit(self, shape: Sequence[int]) -> str:
        """Always ""."""
        return ""

    def group(self, shape: Sequence[int]) -> int:
        """1."""
        return 1

    def share(self, scores: Tensor) -> Tensor:
        """The scores themselves."""
        return scores

    def mask(self, scores: Tensor, keep: int, generator: torch.Generator) -> Tensor:
        """`keep_largest`."""
        return keep_largest(scores, keep, generator)


@dataclass(frozen=True)
class _Blocks(Pattern):
    """Non-overlapping blocks of the matrix (out, in * kernel)."""

    @abstractmethod
    def size(self, shape: Sequence[int]) -> tuple[int, int]:
        """Height and width of a block in a weight of this shape."""

    def misfit(self, shape: Sequence[int]) -> str:
        """Not a matrix, not divisible, or one single block, which could only be kept."""
        if len(shape) < 2:
            return f"{self} needs a matrix, and its shape is {tuple(shape)}"
        rows, columns = shape[0], math.prod(shape[1:])
        height, width = self.size(shape)
        if not rows * columns:
            return "it has no weights"
        if rows % height or columns % width:
            return f"blocks of {height} x {width} do not divide its {rows} x {columns} matrix"
        if (rows, columns) == (height, width):
            return f"its {rows} x {columns} matrix is a single block of {self}"
        return ""

    def group(self, shape: Sequence[int]) -> int:
        """Height * width."""
        return math.prod(self.size(shape))

    def share(self, scores: Tensor) -> Tensor:
        """The mean over the block, of the scores that are not -inf; float32 at least."""
        blocks = self._split(scores)
        usable = blocks != -math.inf  # True for NaN, which is to spoil its block
        # In float64, where the order of the terms hardly matters: equal blocks are to have equal scores.
        total = torch.where(usable, blocks, 0).sum((1, 3), keepdim=True, dtype=torch.float64)
        mean = (total / usable.sum((1, 3), keepdim=True)).to(torch.promote_types(scores.dtype, torch.float32))
        return torch.where(usable, mean, -math.inf).reshape(scores.shape)

    def mask(self, scores: Tensor, keep: int, generator: torch.Generator) -> Tensor:
        """The best blocks for as long as their weights fit into ``keep``; ties between blocks are drawn."""
        blocks = self._split(scores)
        usable = blocks > -math.inf
        best = blocks.amax((1, 3))
        counts = usable.sum((1, 3)).flatten()
        group = blocks.shape[1] * blocks.shape[3]
        if bool(((counts == 0) | (counts == group)).all()):
            kept = keep_largest(best, keep // group, generator)
        else:  # blocks with weights that are never kept: sorted, to see how many fit
            shuffled = torch.randperm(best.numel(), generator=generator).to(best.device)
            order = shuffled[best.flatten()[shuffled].argsort(descending=True, stable=True)]
            kept = torch.zeros_like(best, dtype=torch.bool)
            kept.view(-1)[order[counts[order].cumsum(0) <= keep]] = True
        return (kept[:, None, :, None] & usable).reshape(scores.shape)

    def _split(self, scores: Tensor) -> Tensor:
        """(rows of blocks, height, columns of blocks, width)."""
        height, width = self.size(scores.shape)
        return scores.reshape(scores.shape[0] // height, height, -1, width)


@dataclass(frozen=True)
class Block(_Blocks):
    """Blocks of ``height`` outputs by ``width`` inputs are kept or removed whole; -1 means the whole dimension.

    The matrix is (out, in * kernel): a row is one output unit or filter, and for a convolution the kernel positions of
    one input channel lie side by side, as `Tensor.flatten(1)` has them. A block's score is the mean of its scores.
    A tensor that blocks do not divide is skipped. Raises ValueError for a size that is neither -1 nor at least 1.
    """

    height: int
    width: int

    def __post_init__(self) -> None:
        for side in (self.height, self.width):
            if side < 1 and side != -1:
                raise ValueError(f"a block's side must be at least 1, or -1 for the whole dimension, got {side}")

    def size(self, shape: Sequence[int]) -> tuple[int, int]:
        """As given, with -1 filled in."""
        height = shape[0] if self.height == -1 else self.height
        return height, math.prod(shape[1:]) if self.width == -1 else self.width


@dataclass(frozen=True)
class Rows(_Blocks):
    """Whole outputs: a row of a Linear, a filter of a convolution (one output map), the vector of a token."""

    def size(self, shape: Sequence[int]) -> tuple[int, int]:
        """1 x all."""
        return 1, math.prod(shape[1:])


@dataclass(frozen=True)
class Columns(_Blocks):
    """Whole inputs: a column of a Linear, an input channel of a convolution with all its kernels, a token feature."""

    def size(self, shape: Sequence[int]) -> tuple[int, int]:
        """All x the kernel's positions."""
        return shape[0], math.prod(shape[2:])


@dataclass(frozen=True)
class NM(Pattern):
    """At most ``n`` non-zeros in every group of ``m`` consecutive inputs, in the end; 2:4 is what hardware runs.

    A group is m consecutive input features of one output of a Linear, m consecutive input channels at one kernel
    position of one filter, m consecutive features of one token. The n best of a group stay, the others go: in the
    order of their scores while the schedule rises, so that counts are exact all the way, and all of them at its end.
    The final sparsity is therefore 1 - n/m, the same in every tensor, and the schedule has to say so.

    A tensor with a number of inputs that m does not divide is skipped. Raises ValueError unless 1 <= n < m.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 1 <= self.n < self.m:
            raise ValueError(f"NM needs 1 <= n < m, got n={self.n}, m={self.m}; NM(2, 4) keeps 2 of 4")

    def check(self, schedule: Schedule, allocation: Allocation) -> None:
        """Raises ValueError unless the schedule ends at 1 - n/m, starts no higher, and the allocation is Uniform."""
        final = 1 - self.n / self.m
        if abs(schedule.final - final) > 1e-9:
            raise ValueError(
                f"{self} ends at sparsity 1 - {self.n}/{self.m} = {final:.6g} and the schedule at {schedule.final}; "
                f"give the schedule final={1 - self.n / self.m!r}"
            )
        if schedule(0) > final + 1e-9:
            raise ValueError(f"{self} never goes beyond sparsity {final:.6g}, and the schedule starts at {schedule(0)}")
        if allocation != Uniform():
            raise ValueError(f"{self} gives every tensor the same sparsity; leave out allocation={allocation}")

    def misfit(self, shape: Sequence[int]) -> str:
        """Not a matrix, or inputs not divisible."""
        if len(shape) < 2:
            return f"{self} needs a matrix, and its shape is {tuple(shape)}"
        return f"{self.m} does not divide its {shape[1]} inputs" if shape[1] % self.m or not math.prod(shape) else ""

    def group(self, shape: Sequence[int]) -> int:
        """1: weights leave one by one."""
        return 1

    def share(self, scores: Tensor) -> Tensor:
        """The scores themselves."""
        return scores

    def mask(self, scores: Tensor, keep: int, generator: torch.Generator) -> Tensor:
        """The n best of each group, and of the others the best that there is room for."""
        split = scores.reshape(scores.shape[0], -1, self.m, *scores.shape[2:])
        places = split.movedim(2, 0).contiguous()  # (m, out, in / m, kernel...)
        first = self._first(places.flatten(1), generator).view_as(places)
        others = torch.where(first, -math.inf, places)
        # Where a group has fewer than n weights to keep, nobody takes their place: its zeros come on top of the target.
        room = max(keep - places[0].numel() * self.n, 0)
        mask = first | keep_largest(others, room, generator)
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
            shuffled = torch.rand(some.shape, generator=generator).argsort(0).to(some.device)
            order = some.gather(0, shuffled).argsort(dim=0, descending=True, stable=True)
            drawn = torch.zeros_like(some, dtype=torch.bool)
            first[:, tied] = drawn.scatter_(0, shuffled.gather(0, order)[: self.n], True)
        return first


def output_first(tensor: Tensor, module: nn.Module) -> Tensor:
    """``tensor``, of the shape of a weight of ``module``, with outputs before inputs; applied again, as it was."""
    # The Conv1D of transformers is known by its name, since importing transformers takes seconds.
    swapped = isinstance(module, _ConvTransposeNd) or type(module).__name__ == "Conv1D"
    return tensor.transpose(0, 1) if swapped and tensor.dim() > 1 else tensor


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


def check_whole_groups(keep: dict[str, int], groups: dict[str, int], sparsity: float) -> None:
    """Raises ValueError for a weight that is to keep some of its weights, but less than one group."""
    for name, count in keep.items():
        if 0 < count < groups[name]:
            raise ValueError(
                f"{name} would keep {count} weights at sparsity {sparsity}, less than one group of {groups[name]}, and "
                f"end up empty; leave it out with select=excluding({name!r}) or give it less with PerLayer"
            )


class DivergedError(RuntimeError):
    """A mask cannot be computed since training has diverged."""


def check_scores(name: str, scores: Tensor) -> None:
    """Raises DivergedError where a score is NaN."""
    here = local(scores)
    # A sum is the cheapest pass that NaN survives; inf - inf makes one too, hence the closer look.
    (spoiled,) = shards_of(scores).sum([int(here.isnan().count_nonzero()) if bool(here.sum().isnan()) else 0])
    if spoiled:
        raise DivergedError(
            f"{spoiled} of the {scores.numel()} scores of {name} are NaN, so its mask cannot be computed; has training "
            "diverged? Go back to a checkpoint, or lower the learning rate"
        )


def check_count(name: str, scores: Tensor, mask: Tensor, keep: int, group: int) -> None:
    """Raises RuntimeError unless ``mask`` keeps ``keep`` down to whole groups, or as many fewer as are never kept."""
    shards = shards_of(scores)
    (kept,) = shards.sum([int(local(mask).count_nonzero())])
    if 0 <= keep - kept < group:
        return
    (never,) = shards.sum([int((local(scores) == -math.inf).count_nonzero())])
    if not 0 <= keep - kept < group + never:
        raise RuntimeError(
            f"{name} was to keep {keep} of its {scores.numel()} weights and keeps {kept}; the schedule, the allocation "
            "or the pattern must be wrong, check those of your own"
        )
