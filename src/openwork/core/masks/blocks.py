"""Patterns of blocks: weights that are kept or removed together."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openwork.core.layout import Along
from openwork.core.masks.patterns import Pattern
from openwork.core.masks.threshold import keep_largest
from openwork.core.precision import where_float64_is


@dataclass(frozen=True)
class _Blocks(Pattern):
    """Non-overlapping blocks of the matrix (out, in * kernel), each within one matrix of several."""

    @property
    def along(self) -> Along:
        """As more outputs, unless a block reaches over all of them."""
        return "outputs"

    @abstractmethod
    def size(self, shape: Sequence[int]) -> tuple[int, int]:
        """Height and width of a block in a weight of this shape."""

    def misfit(self, shape: Sequence[int]) -> str:
        """Not divisible."""
        rows, columns = shape[0], math.prod(shape[1:])
        height, width = self.size(shape)
        if not rows * columns:
            return "it has no weights"
        if rows % height or columns % width:
            return f"blocks of {height} x {width} do not divide its {rows} x {columns} matrix"
        return ""

    def group(self, shape: Sequence[int]) -> int:
        """Height * width."""
        return math.prod(self.size(shape))

    def group_scores(self, scores: Tensor) -> Tensor:
        """The mean over the block, of the scores that are not -inf; float32 at least."""
        blocks = self._split(scores)
        usable = blocks != -math.inf  # True for NaN, which is to spoil its block
        # In float64, where the order of the terms hardly matters: equal blocks are to have equal scores.
        numbers = where_float64_is(torch.where(usable, blocks, 0))
        mean = numbers.sum((1, 3), keepdim=True, dtype=torch.float64) / usable.sum((1, 3), keepdim=True).to(
            numbers.device
        )
        mean = mean.to(scores.device, torch.promote_types(scores.dtype, torch.float32))
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
        else:  # some blocks hold weights that are never kept: sort the blocks, to see how many fit
            shuffled = torch.randperm(best.numel(), generator=generator, device="cpu").to(best.device)
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
    """Blocks that are kept or removed whole, ranked by the mean of their scores.

    The matrix is (out, in * kernel): a row is one output unit or filter, and for a convolution the kernel positions of
    one input channel lie side by side, as `Tensor.flatten(1)` arranges them. A tensor that blocks do not divide is
    skipped.

    Args:
        height: The number of outputs, rows of the matrix; -1 is all of them.
        width: The number of columns of the matrix; -1 is all of them.

    Raises:
        ValueError: If a side is neither -1 nor at least 1.
    """

    height: int
    width: int

    def __post_init__(self) -> None:
        for side in (self.height, self.width):
            if side < 1 and side != -1:
                raise ValueError(f"a block's side must be at least 1, or -1 for the whole dimension, got {side}")

    @property
    def along(self) -> Along:
        """As more inputs where the height is that of the whole matrix."""
        return "inputs" if self.height == -1 else "outputs"

    def size(self, shape: Sequence[int]) -> tuple[int, int]:
        """As given, with -1 filled in."""
        height = shape[0] if self.height == -1 else self.height
        return height, math.prod(shape[1:]) if self.width == -1 else self.width


@dataclass(frozen=True)
class Rows(_Blocks):
    """Whole outputs: a row of a Linear or an expert, a filter of a convolution (one output map), a token's vector."""

    def size(self, shape: Sequence[int]) -> tuple[int, int]:
        """1 x all."""
        return 1, math.prod(shape[1:])


@dataclass(frozen=True)
class Columns(_Blocks):
    """Whole inputs: a column of a Linear, an input channel of a convolution with all its kernels, a token feature.

    An input of one expert, or of one group of a convolution, is one of its own.
    """

    @property
    def along(self) -> Along:
        """As more inputs."""
        return "inputs"

    def size(self, shape: Sequence[int]) -> tuple[int, int]:
        """All x the kernel's positions."""
        return shape[0], math.prod(shape[2:])
