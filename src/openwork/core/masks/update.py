"""A mask update: scores, how many weights each tensor keeps, and which. No weight changes here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from openwork.core.masks.check import (
    check_counts,
    check_masks,
    check_pattern,
    check_scores,
    check_solution,
    check_spoiled,
    check_whole_groups,
)
from openwork.core.masks.counting import count_each
from openwork.core.masks.evidence import View
from openwork.core.masks.ranked import as_stored, groups_of, ordered, ranked, scored, shapes_like, turned
from openwork.core.masks.scores import Scores, batches, like
from openwork.core.masks.weight import MaskedWeight, remember
from openwork.core.precision import exact
from openwork.core.seeding import seeded_generator
from openwork.core.sharded import local

if TYPE_CHECKING:
    from openwork.core.masks.technique import MaskTechnique


class Chosen(NamedTuple):
    """A weight's next mask.

    Args:
        mask: Bool, True = keep; of the rows here.
        keep: How many weights it keeps, of all shards.
        values: New values of the rows here, where the technique solved for them; otherwise None.
    """

    mask: Tensor
    keep: int
    values: Tensor | None = None


def choose(
    technique: MaskTechnique,
    weights: Sequence[MaskedWeight],
    *,
    seed: int,
    step: int,
    exchange: float | None = None,
    value: float | None = None,
) -> list[Chosen]:
    """The next masks, in the order of the weights.

    Args:
        technique: Says which weights are kept.
        weights: The weights that it chooses from.
        seed: The seed of ties and random scores.
        step: Completed optimizer steps.
        exchange: The fraction of the kept weights that makes room for others to come back; None where scores alone
            decide.
        value: Stands for the schedule's; None for that of the step.

    Raises:
        DivergedError: If scores are NaN.
        RuntimeError: If a mask misses its count.
        TypeError: If scores are no real tensor of the weight's shape and sharding.
        ValueError: If scores read gradients before there are any.
    """
    remember(weights)
    views = [weight.view(step=step, seed=seed) for weight in weights]
    known = {view.name: pair for view, pair in zip(views, zip(weights, views, strict=True), strict=True)}
    like = shapes_like(technique, weights, [view.weight for view in views])
    scores = Scores(like, lambda names: scored(technique, [known[name] for name in names]))
    value = technique.schedule(step) if value is None else value
    keep = count(technique, scores if _needs_scores(technique) else scores.like, value)
    if technique.solves:
        return [_solved(technique, *pair, keep[name], seed=seed) for name, pair in known.items()]

    def choose_of(names: Sequence[str]) -> list[Chosen]:
        pairs, wanted = [known[name] for name in names], [keep[name] for name in names]
        ranks = scores.of(names)
        if exchange is not None:
            _exchange(technique, pairs, ranks, wanted, exchange, seed=seed)
        masks, kept = _masks(technique, [view for _, view in pairs], ranks, wanted, "ties", seed=seed)
        check_counts(names, ranks, kept, wanted, [technique.pattern.group(rank.shape) for rank in ranks])
        return [
            Chosen(local(as_stored(technique, weight, mask)), number)
            for (weight, _), mask, number in zip(pairs, masks, kept, strict=True)
        ]

    return [one for names in batches(scores.like) for one in choose_of(names)]


def preview(technique: MaskTechnique, weights: Sequence[MaskedWeight], *, seed: int) -> None:
    """Checks the counts of the schedule's end before training begins.

    Raises:
        ValueError: If a tensor would keep less than one group, or ``keep_zeros`` leaves no room for growth.
    """
    remember(weights)
    views = [weight.view(step=0, seed=seed) for weight in weights]
    known = {view.name: pair for view, pair in zip(views, zip(weights, views, strict=True), strict=True)}
    silent = not (technique.evidence.differentiates or technique.evidence.inputs)

    def compute(names: Sequence[str]) -> list[Tensor]:
        pairs = [known[name] for name in names]
        if silent:
            return scored(technique, pairs)
        # Magnitudes stand in for scores that need evidence, which is not there yet.
        return [ranked(technique, weight, view, view.weight.abs(), "scores") for weight, view in pairs]

    scores = Scores(shapes_like(technique, weights, [view.weight for view in views]), compute)
    keep = count(technique, scores if _needs_scores(technique) else scores.like)
    for weight in weights if technique.regrows else ():
        if weight.allowed is not None:
            (room,) = count_each([weight.allowed], [weight.parameter])
            if room <= keep[weight.name]:
                raise ValueError(
                    f"{type(technique).__name__} lets weights come back, and keep_zeros=True leaves {weight.name} "
                    f"{room} weights for the {keep[weight.name]} that it keeps; leave out keep_zeros, or take a "
                    "technique without growth"
                )


def _needs_scores(technique: MaskTechnique) -> bool:
    """Whether the counts depend on the scores, and not on their shapes alone."""
    return technique.allocation.needs_scores or not technique.criterion.allocates


def count(technique: MaskTechnique, scores: Mapping[str, Tensor], value: float | None = None) -> dict[str, int]:
    """How many weights each tensor keeps, by name.

    Args:
        technique: The technique, with its schedule and criterion.
        scores: The scores by name, as `ordered` returns them.
        value: That of the schedule; None for its end, whose counts must be whole groups.
    """
    schedule = technique.schedule
    groups = groups_of(technique, like(scores))
    reached = schedule.final if value is None else value
    keep = technique.criterion.keep(scores, reached, schedule, technique.allocation, groups)
    if value is None:
        check_whole_groups(keep, groups, reached)
    return keep


def _masks(
    technique: MaskTechnique,
    views: Sequence[View],
    scores: Sequence[Tensor],
    keep: Sequence[int],
    draw: str,
    *,
    seed: int,
) -> tuple[list[Tensor], list[int]]:
    """The mask of each tensor and how many weights it keeps; waits for the device once, and for tensors with ties.

    Raises:
        DivergedError: If scores are NaN.
        RuntimeError: If a mask has another shape or dtype.
    """
    names = [view.name for view in views]

    def ties(place: int) -> torch.Generator:
        return _generator(views[place], draw, seed=seed)

    found = technique.pattern.select(scores, keep, ties)
    if found is not None:
        check_spoiled(names, scores, found.spoiled)
        return found.masks, found.kept
    masks = [
        technique.pattern.mask(score, number, ties(place))
        for place, (score, number) in enumerate(zip(scores, keep, strict=True))
    ]
    check_masks(names, scores, masks)
    return masks, check_scores(names, scores, masks)


def _generator(view: View, draw: str, *, seed: int) -> torch.Generator:
    # Ties have a generator of their own: the draw does not depend on how many numbers the scores used up.
    return seeded_generator(seed, view.step, f"{view.name}/{draw}")


def _exact(technique: MaskTechnique, view: View, scores: Tensor, keep: int, draw: str, *, seed: int) -> Tensor:
    return technique.pattern.mask(scores, keep, _generator(view, draw, seed=seed))


def _exchange(
    technique: MaskTechnique,
    pairs: Sequence[tuple[MaskedWeight, View]],
    scores: list[Tensor],
    keep: Sequence[int],
    exchange: float,
    *,
    seed: int,
) -> None:
    """Replaces scores by those that put the best kept weights first, and then the best by growth of all others.

    In place, and each gradient goes once its growth is known: all tensors' scores and gradients are as large as two
    models.
    """
    for place, ((weight, view), score) in enumerate(zip(pairs, scores, strict=True)):
        mask = turned(technique, weight, view.mask)
        scores[place] = torch.where(mask | score.isnan(), score, -math.inf)  # NaN stays, to be found
    survivors = [survive(n, exchange) for n in keep]
    stay, _ = _masks(technique, [view for _, view in pairs], scores, survivors, "survivors", seed=seed)
    for place, (weight, view) in enumerate(pairs):
        growth = ordered(technique, weight, view, "growth")
        weight.forget()
        scores[place] = torch.where(stay[place], math.inf, finite(growth))


def survive(keep: int, exchange: float) -> int:
    """How many of ``keep`` weights stay when the fraction ``exchange`` makes room."""
    return keep - math.floor(exchange * keep + 1e-6)  # 0.29 * 100 is 28.999999999999996 in binary


def finite(growth: Tensor) -> Tensor:
    """The scores of growth, of which those that overflow must not tie with the weights that stay."""
    return growth.clamp(max=torch.finfo(growth.dtype).max)


def _solved(technique: MaskTechnique, weight: MaskedWeight, view: View, keep: int, *, seed: int) -> Chosen:
    if weight.allowed is not None or technique.pattern.whole_tensors:  # what whole groups and the zeros leave room for
        room = ranked(technique, weight, view, torch.zeros_like(view.weight), "solve")
        (keep,) = count_each([local(_exact(technique, view, room, keep, "room", seed=seed))], [room])
    ties = seeded_generator(seed, view.step, f"{weight.name}/ties")
    # A solver may work in place, and what it found may be refused.
    found = technique.solve(replace(view, weight=exact(view.weight).clone()), keep, ties)
    mask, values = check_solution(type(technique).__name__, weight, view.weight, found, keep)
    if technique.pattern.whole_tensors:
        fit = ranked(technique, weight, view, mask.to(view.weight), "solve")
        nearest = _exact(technique, view, fit, keep, "fit", seed=seed)
        check_pattern(type(technique).__name__, technique.pattern, weight, turned(technique, weight, mask), nearest)
    return Chosen(local(mask), keep, local(values))
