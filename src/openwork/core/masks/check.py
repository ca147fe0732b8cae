"""What a mask update must satisfy before anything changes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from openwork.core.masks.counting import count_each, number_of_true, read_back, sums
from openwork.core.masks.weight import MaskedWeight
from openwork.core.precision import exact
from openwork.core.sharded import local, shards_of, sum_each, version
from openwork.words import count

if TYPE_CHECKING:
    from openwork.core.masks.evidence import Evidence
    from openwork.core.masks.technique import MaskTechnique


class DivergedError(RuntimeError):
    """No mask can be computed, since training has diverged."""


@contextmanager
def unchanged(method: str, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Raises RuntimeError where the method writes to one of the tensors, named as its author knows them."""
    before = [version(tensor) for tensor in tensors.values()]
    yield
    for (name, tensor), then in zip(tensors.items(), before, strict=True):
        if version(tensor) != then:
            raise changed(method, name)


def changed(method: str, name: str) -> RuntimeError:
    """The error of a method that writes to a tensor, which has this name where its author knows it."""
    return RuntimeError(f"{method} changed {name} in place; work on a copy, such as its .clone()")


def checked_beginning(evidence: Evidence, weight: Tensor) -> dict[str, Tensor]:
    """What the evidence keeps from the beginning. Raises TypeError unless it is tensors by name."""
    weight = exact(weight)
    with unchanged(f"{type(evidence).__name__}.begin", {"the weight": weight}):
        kept = evidence.begin(weight)
    if not isinstance(kept, dict) or not all(isinstance(value, Tensor) for value in kept.values()):
        raise TypeError(f"{type(evidence).__name__}.begin must return a dict of tensors, and returned {kept!r}")
    return kept


def checked_exchange(technique: MaskTechnique, step: int) -> float:
    """The technique's exchange after the step. Raises ValueError unless it is a fraction in [0, 1]."""
    fraction = technique.exchange(step)
    if fraction is None or not 0 <= fraction <= 1:
        raise ValueError(f"{type(technique).__name__}.exchange must return a fraction in [0, 1], got {fraction}")
    return fraction


def check_whole_groups(keep: Mapping[str, int], groups: Mapping[str, int], sparsity: float) -> None:
    """Refuses counts that leave a tensor some weights, but less than one group.

    Args:
        keep: How many weights each tensor keeps, by name.
        groups: How many weights are kept or removed together, by name.
        sparsity: The schedule's value, for the error.

    Raises:
        ValueError: If a tensor would keep more than 0 weights, and fewer than a group has.
    """
    for name, kept in keep.items():
        if 0 < kept < groups[name]:
            raise ValueError(
                f"{name} would keep {count(kept, 'weight')} at sparsity {sparsity}, less than one group of "
                f"{groups[name]}, and end up empty; leave it out with select=excluding({name!r}) or give it less with "
                "PerLayer"
            )


def check_masks(names: Sequence[str], scores: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """Raises RuntimeError for a mask that is not bool, or not of its scores' shape."""
    for name, score, mask in zip(names, scores, masks, strict=True):
        if mask.shape != score.shape or mask.dtype != torch.bool:
            raise RuntimeError(
                f"the pattern's mask of {name} is a {mask.dtype} of shape {tuple(mask.shape)}; return a bool one of "
                f"the scores' shape, {tuple(score.shape)}"
            )


def check_scores(names: Sequence[str], scores: Sequence[Tensor], masks: Sequence[Tensor]) -> list[int]:
    """How many weights each mask keeps, of all shards; read back from the device once for all tensors.

    Args:
        names: The tensors' names, for the error.
        scores: Their scores.
        masks: Their masks, bool.

    Raises:
        DivergedError: If a score is NaN.
    """
    # The cheapest pass that NaN survives; inf - inf makes one too, hence the closer look.
    numbers = read_back([*sums([local(s) for s in scores]), *(number_of_true(local(mask)) for mask in masks)])
    shards = [shards_of(score) for score in scores]
    spoiled = [
        int(local(score).isnan().count_nonzero()) if math.isnan(total) else 0
        for score, total in zip(scores, numbers, strict=False)
    ]
    check_spoiled(names, scores, sum_each(spoiled, shards))
    return sum_each([int(number) for number in numbers[len(scores) :]], shards)


def check_spoiled(names: Sequence[str], scores: Sequence[Tensor], spoiled: Sequence[int]) -> None:
    """Raises DivergedError if scores are NaN.

    Args:
        names: The tensors' names, for the error.
        scores: Their scores.
        spoiled: How many scores of each are NaN.
    """
    for name, score, number in zip(names, scores, spoiled, strict=True):
        if number:
            raise DivergedError(
                f"{number} of the {score.numel()} scores of {name} are NaN, so its mask cannot be computed; has "
                "training diverged? Go back to a checkpoint, or lower the learning rate"
            )


def check_counts(
    names: Sequence[str], scores: Sequence[Tensor], kept: Sequence[int], keep: Sequence[int], groups: Sequence[int]
) -> None:
    """Checks that each mask keeps its number of weights, down to whole groups.

    Args:
        names: The tensors' names, for the error.
        scores: Their scores; -inf where a weight may never be kept.
        kept: How many weights each mask keeps.
        keep: How many it was to keep.
        groups: How many weights of each tensor are kept or removed together.

    Raises:
        RuntimeError: If a mask keeps too many, or too few by a whole group or more, besides those that may never be
            kept.
    """
    missing = [place for place, group in enumerate(groups) if not 0 <= keep[place] - kept[place] < group]
    some = [scores[place] for place in missing]
    never = count_each([local(score) == -math.inf for score in some], some)
    for place, number in zip(missing, never, strict=True):
        if not 0 <= keep[place] - kept[place] < groups[place] + number:
            raise RuntimeError(
                f"{names[place]} was to keep {keep[place]} of its {scores[place].numel()} weights and keeps "
                f"{kept[place]}; the schedule, the allocation or the pattern must be wrong, check those that you wrote"
            )


def check_solution(
    technique: str, masked: MaskedWeight, weight: Tensor, found: object, keep: int
) -> tuple[Tensor, Tensor]:
    """What a technique's ``solve`` returned, if it fits the weight.

    Args:
        technique: The technique's name, for the errors.
        masked: The weight with its mask.
        weight: Its values, sharded like the parameter.
        found: What ``solve`` returned: a mask and weights.
        keep: How many weights it was to keep.

    Raises:
        RuntimeError: If it is no pair of tensors, mask or weights have another shape, the mask is not bool, keeps
            another number or a weight that is zero for good, or a weight is NaN or infinite.
    """
    name = masked.name
    pair = [each for each in found if isinstance(each, Tensor)] if isinstance(found, tuple | list) else []
    if len(pair) != 2:
        raise RuntimeError(
            f"{technique}.solve returned a {type(found).__name__} for {name}; return two tensors, mask and weights"
        )
    mask, values = pair[0].to(weight.device), pair[1].to(weight)  # solvers often compute in float64
    for what, tensor in (("a mask", mask), ("weights", values)):
        if tensor.shape != weight.shape:
            raise RuntimeError(
                f"{technique}.solve returned {what} of shape {tuple(tensor.shape)} for {name}, whose shape is "
                f"{tuple(weight.shape)}; return both in the shape of view.weight"
            )
    if mask.dtype != torch.bool:
        raise RuntimeError(f"{technique}.solve returned a mask of {mask.dtype} for {name}; return a bool one")
    forbidden = torch.zeros_like(local(mask)) if masked.allowed is None else local(mask) & ~masked.allowed
    parts = [local(mask), ~local(values).isfinite(), forbidden]
    kept, spoiled, revived = count_each(parts, [weight] * len(parts))
    if kept != keep:
        raise RuntimeError(
            f"{technique}.solve was to keep {keep} of the {weight.numel()} weights of {name} and keeps {kept}; return "
            "a mask with exactly that many True"
        )
    if revived:
        raise RuntimeError(
            f"{technique}.solve keeps {revived} weights of {name} that are zero for good; with keep_zeros=True keep "
            "only where view.mask is True"
        )
    if spoiled:
        raise RuntimeError(
            f"{technique}.solve returned {spoiled} weights of {name} that are NaN or infinite; check its inputs and "
            "how it damps its Hessian"
        )
    return mask, values


def check_pattern(technique: str, pattern: object, masked: MaskedWeight, mask: Tensor, nearest: Tensor) -> None:
    """Checks that the mask that a technique's ``solve`` returned has the pattern.

    Args:
        technique: The technique's name, for the error.
        pattern: The pattern, for the error.
        masked: The weight.
        mask: The mask, with the outputs first.
        nearest: The pattern's own mask that keeps as much of it as it can.

    Raises:
        RuntimeError: If the two differ.
    """
    if missing := int((mask & ~nearest).count_nonzero()):
        raise RuntimeError(
            f"{technique}.solve returned a mask of {masked.name} that is not one of {pattern}, which has no room for "
            f"{missing} of the weights that it keeps; keep whole groups, or take pattern=Unstructured()"
        )
