"""What a mask update must satisfy before anything is changed."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from openwork.core.masks.counting import count_each, number_of_true, read_back, sum_each, sums
from openwork.core.sharded import local


class DivergedError(RuntimeError):
    """A mask cannot be computed since training has diverged."""


def check_whole_groups(keep: Mapping[str, int], groups: Mapping[str, int], sparsity: float) -> None:
    """Raises ValueError for a weight that is to keep some of its weights, but less than one group."""
    for name, count in keep.items():
        if 0 < count < groups[name]:
            raise ValueError(
                f"{name} would keep {count} weights at sparsity {sparsity}, less than one group of {groups[name]}, and "
                f"end up empty; leave it out with select=excluding({name!r}) or give it less with PerLayer"
            )


def check_scores(names: Sequence[str], scores: Sequence[Tensor], masks: Sequence[Tensor]) -> list[int]:
    """How many weights each mask keeps, of all shards. Raises DivergedError where a score is NaN.

    The numbers of all tensors are read back from the device at once.
    """
    # The cheapest pass that NaN survives; inf - inf makes one too, hence the closer look.
    numbers = read_back([*sums([local(s) for s in scores]), *(number_of_true(local(mask)) for mask in masks)])
    spoiled = [
        int(local(score).isnan().count_nonzero()) if math.isnan(total) else 0
        for score, total in zip(scores, numbers, strict=False)
    ]
    for name, score, number in zip(names, scores, sum_each(spoiled, scores), strict=True):
        if number:
            raise DivergedError(
                f"{number} of the {score.numel()} scores of {name} are NaN, so its mask cannot be computed; has "
                "training diverged? Go back to a checkpoint, or lower the learning rate"
            )
    return sum_each([int(number) for number in numbers[len(scores) :]], scores)


def check_counts(
    names: Sequence[str], scores: Sequence[Tensor], kept: Sequence[int], keep: Sequence[int], groups: Sequence[int]
) -> None:
    """Raises RuntimeError unless each mask keeps its number, down to whole groups, less what may never be kept."""
    missing = [place for place, group in enumerate(groups) if not 0 <= keep[place] - kept[place] < group]
    some = [scores[place] for place in missing]
    never = count_each([local(score) == -math.inf for score in some], some)
    for place, number in zip(missing, never, strict=True):
        if not 0 <= keep[place] - kept[place] < groups[place] + number:
            raise RuntimeError(
                f"{names[place]} was to keep {keep[place]} of its {scores[place].numel()} weights and keeps "
                f"{kept[place]}; the schedule, the allocation or the pattern must be wrong, check those of your own"
            )


def check_solution(technique: str, name: str, weight: Tensor, mask: Tensor, values: Tensor, keep: int) -> None:
    """Raises RuntimeError for a mask and weights that a technique found together and that do not fit the weight."""
    for what, found in (("mask", mask), ("weights", values)):
        if found.shape != weight.shape:
            raise RuntimeError(
                f"{technique}.solve returned a {what} of shape {tuple(found.shape)} for {name}, whose shape is "
                f"{tuple(weight.shape)}; return both in the shape of view.weight"
            )
    if mask.dtype != torch.bool:
        raise RuntimeError(f"{technique}.solve returned a mask of {mask.dtype} for {name}; return a bool one")
    kept, spoiled = count_each([local(mask), ~local(values).isfinite()], [weight, weight])
    if kept != keep:
        raise RuntimeError(
            f"{technique}.solve was to keep {keep} of the {weight.numel()} weights of {name} and keeps {kept}; return "
            "a mask with exactly that many True"
        )
    if spoiled:
        raise RuntimeError(
            f"{technique}.solve returned {spoiled} weights of {name} that are NaN or infinite; check its inputs and "
            "how it damps its Hessian"
        )
