"""Exact-count thresholds: which k scores are the largest, with ties broken by a seeded draw."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from openwork.core.masks.counting import read_tables
from openwork.core.precision import exact
from openwork.core.sharded import ALONE, Shards, local, shard_like, shards_of
from openwork.kernels.select import on, select
from openwork.kernels.select_rows import SelectedRows


def keep_count(n: int, sparsity: float) -> int:
    """How many of ``n`` weights stay at ``sparsity`` in [0, 1): floor(n * (1 - sparsity)), as Gale et al. count."""
    # 100 * (1 - 0.9) is 9.999999999999998 in binary; the user means 10.
    return math.floor(n * (1.0 - sparsity) + 1e-6)


def drop_ties(
    selected: SelectedRows,
    scores: Tensor,
    surplus: Mapping[int, int],
    ties: Sequence[int],
    generator: Callable[[int], torch.Generator],
) -> None:
    """Removes what is too much in rows of a mask, drawn between ties as `keep_largest` draws; waits for no device.

    Args:
        selected: What `select_rows` found; its mask is changed.
        scores: (rows, n), no NaN in rows with a surplus.
        surplus: How many to remove, by row, where there is something to remove.
        ties: How many scores of each row equal its threshold.
        generator: A row's seeded CPU generator.
    """
    if not surplus:
        return
    rows = on(torch.tensor(list(surplus), device="cpu"), scores.device)
    some = [ties[row] for row in surplus]
    places = (scores[rows] == selected.thresholds[rows, None]).nonzero_static(size=sum(some))
    dropped = [
        first + torch.randperm(number, generator=generator(row), device="cpu")[: surplus[row]]
        for row, number, first in zip(surplus, some, accumulate(some, initial=0), strict=False)
    ]
    row, column = places[on(torch.cat(dropped), scores.device)].unbind(1)
    selected.mask[rows[row], column] = False


class Kept(NamedTuple):
    """What `keep_largest_of_each` finds for each tensor.

    Args:
        masks: Its mask: bool, sharded like the scores.
        kept: How many scores the mask keeps, of all shards.
        spoiled: How many of its scores are NaN, of all shards.
    """

    masks: list[Tensor]
    kept: list[int]
    spoiled: list[int]


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
    return keep_largest_of_each([scores], [keep], lambda place: generator).masks[0]


@torch.no_grad()
def keep_largest_of_each(
    scores: Sequence[Tensor], keep: Sequence[int], generator: Callable[[int], torch.Generator]
) -> Kept:
    """`keep_largest` for many tensors at once, with one wait for each device that they are on.

    Args:
        scores: The scores of each.
        keep: How many to keep of each.
        generator: The generator of each, by its place; called only where there are ties to draw between.

    Raises:
        ValueError: As `keep_largest`.
    """
    for score, number in zip(scores, keep, strict=True):
        if not 0 <= number <= score.numel():
            raise ValueError(f"cannot keep {number} of {score.numel()} scores")
    parts = [exact(local(score)) for score in scores]
    groups: dict[tuple[torch.device, torch.dtype, Shards], list[int]] = {}
    for place, (score, part) in enumerate(zip(scores, parts, strict=True)):
        groups.setdefault((part.device, part.dtype, shards_of(score)), []).append(place)
    found = []
    for (_, _, shards), places in groups.items():
        some, numbers = [parts[place] for place in places], [keep[place] for place in places]
        found.append(select(some, numbers, None if shards is ALONE else shards.add))
    tables = read_tables([selected.numbers for selected in found])
    result = Kept([torch.empty(0, device="cpu")] * len(scores), list(keep), [0] * len(scores))
    for ((_, _, shards), places), selected, table in zip(groups.items(), found, tables, strict=True):
        of_each = shards.gather(table)  # process by process
        kept, spoiled = table[0], table[2]
        if shards is not ALONE:
            kept, _, spoiled = (list(map(sum, zip(*rows, strict=True))) for rows in zip(*of_each, strict=True))
        for column, place in enumerate(places):
            mask, surplus = selected.masks[column], kept[column] - keep[place]
            if surplus > 0:
                ties = [numbers[1][column] for numbers in of_each]
                drawn = torch.randperm(sum(ties), generator=generator(place), device="cpu")[:surplus]
                chosen = drawn - sum(ties[: shards.index])
                chosen = chosen[(chosen >= 0) & (chosen < ties[shards.index])] if shards is not ALONE else chosen
                mask = _without(mask, parts[place], selected.thresholds[column], ties[shards.index], chosen)
            result.masks[place] = shard_like(mask, scores[place])
            result.kept[place] = kept[column] - max(surplus, 0)
            result.spoiled[place] = spoiled[column]
    return result


def _without(mask: Tensor, scores: Tensor, threshold: Tensor, ties: int, chosen: Tensor) -> Tensor:
    """The mask without those of its ``ties`` at the threshold, numbered by rows, that are ``chosen``."""
    equal = (scores == threshold).flatten()
    # Told how many they are, a GPU does not wait.
    places = equal.nonzero_static(size=ties) if equal.is_cuda else equal.nonzero()
    flat = mask.contiguous()
    flat.view(-1)[places[:, 0][on(chosen, equal.device)]] = False
    return flat
