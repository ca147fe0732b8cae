"""Exact-count thresholds: which k scores are the largest, with ties broken by a seeded draw."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from openwork.core.precision import exact
from openwork.core.sharded import ALONE, Shards, kth_largest_over, local, shard_like, shards_of


def keep_count(n: int, sparsity: float) -> int:
    """How many of ``n`` weights stay at ``sparsity`` in [0, 1): floor(n * (1 - sparsity)), as Gale et al. count."""
    # 100 * (1 - 0.9) is 9.999999999999998 in binary; the user means 10.
    return math.floor(n * (1.0 - sparsity) + 1e-6)


def kth_largest(values: Tensor, k: int, shards: Shards = ALONE) -> Tensor:
    """The k-th largest of ``values``, shape (); exact.

    Args:
        values: 1-D float, no NaN.
        k: From 1 to the number of values.
        shards: The processes among whose values, taken together, it is the k-th largest.
    """
    if shards is not ALONE:
        return kth_largest_over(shards, values, k)
    if values.device.type == "cpu":
        positive = values > 0
        if k <= positive.count_nonzero() < 0.9 * values.numel():
            values = values[positive]  # many equal zeros, as masked weights are, make quickselect slow
        # numpy's vectorised quickselect takes a fifth of the time of torch's topk (benchmarks/mask_update.py).
        array = exact(values).numpy()
        index = values.numel() - k
        return values.new_tensor(np.partition(array, index)[index])
    # On an H200 sort takes 0.7 of the time of topk at 90 % sparsity, and kthvalue many times more than either.
    return values.sort(descending=True).values[k - 1]


def kth_largest_of_rows(values: Tensor, k: Tensor) -> Tensor:
    """The ``k[i]``-th largest of row i of ``values``, shape (rows,); exact, and without waiting for the device.

    A bisection on the bits, read as integers of the same order: each row may have a k of its own, and on a GPU it takes
    a fraction of the time of sorting thousands of rows.

    Args:
        values: (rows, n), float32 or float64; of a row with NaN the result means nothing.
        k: (rows,), whole numbers from 0 to n. For 0 it is NaN, which no value reaches.
    """
    integer = {4: torch.int32, 8: torch.int64}[values.element_size()]
    first, last = torch.iinfo(integer).min, torch.iinfo(integer).max
    bits = values.view(integer)
    keys = torch.where(bits < 0, bits ^ last, bits)
    found = torch.full_like(k, first, dtype=integer)
    for bit in reversed(range(8 * values.element_size())):
        higher = found + (1 << bit) if 1 << bit <= last else found - first
        found = torch.where((keys >= higher[:, None]).sum(1) >= k, higher, found)
    return torch.where(found < 0, found ^ last, found).view(values.dtype)


def reaching(scores: Tensor, thresholds: Tensor) -> Tensor:
    """Where the scores of each row reach its threshold: bool; -inf and NaN never do.

    Args:
        scores: (rows, n).
        thresholds: (rows,), of the same dtype.
    """
    return scores >= thresholds.clamp(min=torch.finfo(scores.dtype).min)[:, None]


def drop_ties(
    mask: Tensor,
    scores: Tensor,
    thresholds: Tensor,
    surplus: Mapping[int, int],
    generator: Callable[[int], torch.Generator],
) -> None:
    """Removes what is too much in rows of what `reaching` gave, drawn between ties as `keep_largest` draws.

    Args:
        mask: (rows, n) bool; it is changed.
        scores: (rows, n), no NaN in these rows.
        thresholds: (rows,).
        surplus: How many to remove, by row, where there is something to remove.
        generator: A row's seeded CPU generator.
    """
    if not surplus:
        return
    rows = torch.tensor(list(surplus), device=scores.device)
    places = (scores[rows] == thresholds[rows, None]).nonzero().cpu()
    ties = torch.split(places[:, 1], places[:, 0].bincount(minlength=len(surplus)).tolist())
    dropped = [
        some[torch.randperm(len(some), generator=generator(row))[:number]]
        for some, (row, number) in zip(ties, surplus.items(), strict=True)
    ]
    counts = torch.tensor([len(some) for some in dropped])
    mask[rows.repeat_interleave(counts.to(rows.device)), torch.cat(dropped).to(mask.device)] = False


def kth_largest_plain(values: Tensor, k: int) -> Tensor:
    """The k-th largest of ``values`` (1-D) by torch.topk, on any device; the twin of `kth_largest`."""
    return values.topk(k, sorted=False).values.min()


def keep_largest(scores: Tensor, keep: int, generator: torch.Generator) -> Tensor:
    """A bool mask of ``scores``' shape that is True at the ``keep`` largest scores: exactly that many.

    Scores of -inf and NaN are never kept, even where fewer than ``keep`` others exist.

    Args:
        scores: Of any shape. Sharded scores give a mask sharded alike, equal to that of the whole; all their processes
            must call this.
        keep: How many to keep.
        generator: A CPU generator that draws between ties at the threshold, so that equal scores do not empty the last
            rows.

    Raises:
        ValueError: Unless 0 <= keep <= the number of scores.
    """
    if not 0 <= keep <= scores.numel():
        raise ValueError(f"cannot keep {keep} of {scores.numel()} scores")
    shards = shards_of(scores)
    here = local(scores.detach())
    flat = here.flatten()
    # Some are -inf or NaN; a sum is cheaper than comparing and counting.
    if shards is not ALONE or not bool(flat.sum() > -math.inf):
        usable = flat > -math.inf  # False for NaN too
        (available,) = shards.sum([int(usable.count_nonzero())])  # on a CPU 50 times faster than the sum of bools
        if keep >= available:
            return shard_like(usable.view_as(here), scores)
        flat = torch.where(usable, flat, -math.inf)
    if keep in (0, scores.numel()):
        return shard_like(torch.full_like(flat, bool(keep), dtype=torch.bool).view_as(here), scores)
    threshold = kth_largest(flat, keep, shards)
    mask = flat >= threshold
    surplus = shards.sum([int(mask.count_nonzero())])[0] - keep
    if surplus:
        ties = (flat == threshold).nonzero().flatten()
        first, total = shards.number(ties.numel())
        chosen = torch.randperm(total, generator=generator)[:surplus] - first
        if shards is not ALONE:
            chosen = chosen[(chosen >= 0) & (chosen < ties.numel())]
        mask[ties[chosen.to(ties.device)]] = False
    return shard_like(mask.view_as(here), scores)


def above_threshold(scores: Tensor, keep: int) -> Tensor:
    """`keep_largest` without a draw between ties, which are all kept, and without waiting for a GPU.

    The number of True is another one than ``keep`` where there are ties at the threshold, where scores are NaN, and
    where fewer than ``keep`` are above -inf.

    Args:
        scores: Of any shape, not sharded.
        keep: How many to keep.
    """
    if keep == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    if keep == scores.numel():
        return scores > -math.inf
    return scores >= kth_largest(scores.flatten(), keep)
