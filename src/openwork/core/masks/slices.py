"""The mask of a matrix in slices of its inputs, for a solver that goes from input to input."""

import math
from itertools import pairwise

from torch import Tensor

from openwork.core.masks.patterns import Pattern


def slices(
    pattern: Pattern, allowed: Tensor, keep: int, columns: int, *, final: bool
) -> list[tuple[int, int, int | None]]:
    """Where each slice begins and ends, in inputs, and how many weights it keeps: None for one span of the pattern.

    All have the same sparsity, as far as whole groups allow; the counts add up to ``keep``.

    Args:
        pattern: Says what a slice must hold whole.
        allowed: (matrices, out, in, kernel...) bool: where weights may be kept.
        keep: How many are kept, in whole groups.
        columns: About how many columns of (out, in * kernel) a slice has.
        final: Whether the schedule is at its end, where a pattern that has spans knows how many each keeps.
    """
    inputs, everywhere = allowed.shape[2], bool(allowed.all())
    if final and (span := pattern.span(_merged(pattern, allowed, inputs))):
        return [(begin, begin + span, None) for begin in range(0, inputs, span)]
    if not everywhere and pattern.whole_tensors:  # the room that zeros leave in each slice is not known
        return [(0, inputs, keep)]
    step = _step(pattern, allowed)
    width = step * max(1, columns // math.prod(allowed.shape[3:]) // step)
    ends = [min(begin + width, inputs) for begin in range(0, inputs, width)]
    room = [end * (allowed.numel() // inputs) for end in ends]  # of this slice and those before
    if not everywhere:
        of_each = allowed.transpose(0, 2).flatten(1).sum(1).cumsum(0).tolist()
        room = [int(of_each[end - 1]) for end in ends]
    portion = pattern.portion(_merged(pattern, allowed, width))
    until = [min(keep, -(-keep * some // (room[-1] * portion)) * portion) if room[-1] else 0 for some in room]
    until[-1] = keep
    return [
        (begin, end, after - before)
        for (begin, end), (before, after) in zip(pairwise([0, *ends]), pairwise([0, *until]), strict=True)
    ]


def _step(pattern: Pattern, allowed: Tensor) -> int:
    """The fewest inputs that the pattern can look at alone."""
    inputs = allowed.shape[2]
    group = pattern.group(_merged(pattern, allowed, inputs))

    def fits(some: int) -> bool:
        shape = _merged(pattern, allowed, some)
        return inputs % some == 0 and not pattern.misfit(shape) and pattern.group(shape) == group

    return next(some for some in range(1, inputs + 1) if some == inputs or fits(some))


def _merged(pattern: Pattern, allowed: Tensor, inputs: int) -> list[int]:
    """The shape of so many inputs of all matrices, side by side as the pattern sees them."""
    matrices, outputs, _, *kernel = allowed.shape
    if pattern.along == "inputs":
        return [outputs, matrices * inputs, *kernel]
    return [matrices * outputs, inputs, *kernel]
