"""The next masks of many models at once: scores by torch.func.vmap, and one selection for all rows of a weight.

For thousands of models on a GPU, whose host would otherwise wait for the device several times for each. Their own
update (`Masking.update`) is the twin, and takes over wherever this way does not lead: other patterns, criteria and
allocations than those that choose by thresholds alone, scores that vmap cannot follow, and scores that are NaN.

On a GPU a technique that sums over a weight may score it in other last bits than alone, since vmap sums in another
order.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from openwork.core.masks.check import checked_exchange, unchanged
from openwork.core.masks.criterion import Sparsity, Threshold
from openwork.core.masks.evidence import View
from openwork.core.masks.patterns import Unstructured
from openwork.core.masks.ranked import ordered
from openwork.core.masks.threshold import drop_ties
from openwork.core.masks.update import count, finite, survive
from openwork.core.seeding import seeded_generator, uniform_like
from openwork.core.stacked import pick
from openwork.kernels.select import on
from openwork.kernels.select_rows import SelectedRows, reach_rows, select_rows

if TYPE_CHECKING:
    from openwork.core.masks.mechanism import Masking
    from openwork.core.masks.stacked import StackedMasks
    from openwork.core.masks.technique import MaskTechnique
    from openwork.core.masks.weight import MaskedWeight

_AT_ONCE = 1 << 26
"""So many weights are ranked at once, each of which takes some 30 bytes meanwhile."""


class _DrawsError(Exception):
    """Scores draw random numbers, which depend on each member's seed."""


@dataclass(frozen=True)
class _OneOfMany(View):
    """What a technique sees of all members' weights at once, inside vmap."""

    drawn: Tensor | None = None

    def uniform(self) -> Tensor:
        if self.drawn is None:
            raise _DrawsError
        return self.drawn


def update_many(stack: StackedMasks, due: Sequence[int], step: int) -> list[int]:
    """Puts the masks in force that are due, as far as this can be done for many members at once.

    Args:
        stack: The masks of all members.
        due: The members that are due.
        step: Completed optimizer steps.

    Returns:
        The members that have their masks now. Of the others nothing has changed.
    """
    done: list[int] = []
    size = sum(parameter[0].numel() for parameter in stack.parameters)
    at_once = max(_AT_ONCE // max(size, 1), 1)
    for technique, members in _kinds(stack, stack.scorers, due):
        for first in range(0, len(members), at_once):
            some = members[first : first + at_once]
            found = _update(stack, technique, some, step)
            if found is None:  # perhaps the scores read the schedule
                for kind, few in _kinds(stack, stack.techniques, some):
                    done += _update(stack, kind, few, step) or []
            else:
                done += found
    return done


def scorer(technique: MaskTechnique) -> MaskTechnique | None:
    """The technique as far as it scores weights, without its schedule; None where thresholds alone do not choose.

    Techniques that differ in their schedules are equal here, and reading the schedule fails.
    """
    by_threshold = technique.criterion == Threshold() and not technique.regrows
    if (
        technique.pattern != Unstructured()
        or technique.solves
        or not (by_threshold or technique.criterion == Sparsity())
    ):
        return None
    technique = copy.copy(technique)
    object.__setattr__(technique, "schedule", None)
    return technique


def alike(values: Sequence[Any]) -> list[Any]:
    """The values, each as the first one that equals it."""
    known: dict[Any, Any] = {}
    try:
        return [known.setdefault(value, value) for value in values]
    except TypeError:  # a field of one is a list
        return list(values)


def _kinds(
    stack: StackedMasks, techniques: Sequence[Any], members: Sequence[int]
) -> list[tuple[MaskTechnique, list[int]]]:
    """The members that have the same of these techniques, as far as they can be updated at once."""
    found: dict[int, tuple[MaskTechnique, list[int]]] = {}
    for index in members:
        technique = techniques[index]
        if stack.scorers[index] is not None and (stack.members[index].pruned or not technique.regrows):
            found.setdefault(id(technique), (technique, []))[1].append(index)
    return list(found.values())


def _update(stack: StackedMasks, technique: MaskTechnique, members: list[int], step: int) -> list[int] | None:
    """The members that have new masks now; None where vmap cannot follow the scores of these."""
    some = _Members(stack, technique, members, step)
    stack.remember(members)
    try:
        scores = some.ask("scores")
        growth = some.ask("growth") if technique.regrows else []
    except Exception:  # vmap may raise anything, and alone each technique says for itself what is wrong
        return None
    if technique.criterion == Threshold():
        values = torch.tensor([each.schedule(step) for each in some.techniques], dtype=torch.float64, device="cpu")
        found = [reach_rows(score, on(values.to(score.dtype), score.device)) for score in scores]
        masks, kept = some.chosen(scores, found, None, "ties")
    else:
        keep = some.counts(scores)
        if keep is None:
            return []
        if technique.regrows:
            scores = some.exchanged(scores, growth, keep)
        masks, kept = some.chosen(scores, _largest(scores, keep), keep, "ties")
    some.take(masks, kept)
    return [index for row, index in enumerate(members) if row not in some.spoiled]


def _largest(scores: Sequence[Tensor], keep: Sequence[Sequence[int]]) -> list[SelectedRows]:
    """The largest scores of each weight and member."""
    pairs = zip(scores, keep, strict=True)
    return [select_rows(score, on(torch.tensor(counts, device="cpu"), score.device)) for score, counts in pairs]


class _Members:
    """Some members whose masks are chosen at once; scores and masks are (members, n), counts by weight and member."""

    def __init__(self, stack: StackedMasks, technique: MaskTechnique, members: list[int], step: int) -> None:
        self.stack = stack
        self.technique = technique
        self.members = members
        self.masking = [stack.members[index] for index in members]
        self.techniques = [stack.techniques[index] for index in members]
        self.step = step
        self.spoiled: set[int] = set()
        """The rows with a score that is NaN, which are left alone."""

    @cached_property
    def values(self) -> list[Tensor]:
        """The weights with their hidden values."""
        return [self.stack.values(place, self.members) for place in range(len(self.stack.names))]

    @cached_property
    def kept(self) -> list[Tensor]:
        """The masks that hold."""
        return [pick(mask, self.members) for mask in self.stack.masks.values()]

    @cached_property
    def evidence(self) -> list[dict[str, Tensor]]:
        """What evidence keeps for each weight."""
        found = []
        for place, weight in enumerate(self.masking[0].weights):
            kept = [member.weights[place].evidence for member in self.masking] if weight.evidence else []
            found.append({name: torch.stack([each[name] for each in kept]) for name in weight.evidence})
        return found

    def ask(self, method: str) -> list[Tensor]:
        """What the technique's ``method``, scores or growth, returns."""
        return [self._asked(place, method) for place in range(len(self.stack.names))]

    def _asked(self, place: int, method: str) -> Tensor:
        weights = [member.weights[place] for member in self.masking]
        like = copy.copy(weights[0])
        like.allowed = None  # below, since each has its own
        name, layout, step = like.name, like.source.layout, self.step

        def one(weight: Tensor, kept: Tensor, evidence: dict[str, Tensor], drawn: Tensor | None) -> Tensor:
            view = _OneOfMany(name, weight, evidence, step, kept, layout, 0, drawn)
            return ordered(self.technique, like, view, method)

        inputs = self.values[place], self.kept[place], self.evidence[place]
        # Tensors inside vmap do not count what is written to them.
        with unchanged(f"{type(self.technique).__name__}.{method}", {f"view.weight of {name}": inputs[0]}):
            try:
                found = torch.func.vmap(one, in_dims=(0, 0, 0, None))(*inputs, None)
            except _DrawsError:
                found = torch.func.vmap(one)(*inputs, self._drawn(like))
        if any(weight.allowed is not None for weight in weights):
            everywhere = torch.ones_like(like.mask, dtype=torch.bool)
            allowed = [everywhere if weight.allowed is None else weight.allowed for weight in weights]
            found = torch.where(torch.stack(allowed), found, -math.inf)
        return found.flatten(1)

    def _drawn(self, like: MaskedWeight) -> Tensor:
        """What `View.uniform` of each member gives for the weight; drawn by all cores, for it takes long."""
        shape = torch.empty((), device="cpu").expand(like.parameter.shape)

        def draw(members: Sequence[Masking]) -> Tensor:
            generators = [seeded_generator(member.seed, self.step, like.name) for member in members]
            return torch.stack([uniform_like(shape, generator) for generator in generators])

        size = -(-len(self.masking) // (os.cpu_count() or 1))
        parts = [self.masking[first : first + size] for first in range(0, len(self.masking), size)]
        with ThreadPoolExecutor() as threads:
            return torch.cat(list(threads.map(draw, parts))).to(like.parameter.device)

    def counts(self, scores: Sequence[Tensor]) -> list[list[int]] | None:
        """How many weights are kept; None where the allocation must be asked one by one."""
        found: list[dict[str, int]] | None = None
        if not self.technique.allocation.needs_scores:
            weights = self.masking[0].weights
            shapes = {weight.name: weight.parameter for weight in weights}
            known = {id(each): each for each in self.techniques}
            counts = {key: count(each, shapes, each.schedule(self.step)) for key, each in known.items()}
            found = [counts[id(each)] for each in self.techniques]
        else:
            sparsities = [each.schedule(self.step) for each in self.techniques]
            if all(0 <= sparsity < 1 for sparsity in sparsities):
                found = self.technique.allocation.of_many(dict(zip(self.stack.names, scores, strict=True)), sparsities)
        return None if found is None else [[keep[name] for keep in found] for name in self.stack.names]

    def exchanged(self, scores: list[Tensor], growth: list[Tensor], keep: list[list[int]]) -> list[Tensor]:
        """Scores that put the best kept weights first, and then the best by growth of all others."""
        kept = [mask.flatten(1).bool() for mask in self.kept]
        scores = [torch.where(m | s.isnan(), s, -math.inf) for m, s in zip(kept, scores, strict=True)]
        fractions = [checked_exchange(member.technique, self.step) for member in self.masking]
        survivors = [[survive(*pair) for pair in zip(counts, fractions, strict=True)] for counts in keep]
        stay, _ = self.chosen(scores, _largest(scores, survivors), survivors, "survivors")
        return [torch.where(mask, math.inf, finite(score)) for mask, score in zip(stay, growth, strict=True)]

    def chosen(
        self, scores: Sequence[Tensor], found: Sequence[SelectedRows], keep: list[list[int]] | None, draw: str
    ) -> tuple[list[Tensor], list[list[int]]]:
        """Masks without ties that are too many, and how many they keep; waits for the device once.

        Args:
            scores: The scores.
            found: What was selected of them, by weight; its masks are changed.
            keep: How many weights to keep at most, drawn between ties; None for all that reach the threshold.
            draw: The name of the draw.
        """
        numbers = torch.stack([each.numbers for each in found]).tolist()
        kept = [rows for rows, _, _ in numbers]
        self.spoiled |= {row for _, _, rows in numbers for row, number in enumerate(rows) if number}
        for place, (name, most) in enumerate(zip(self.stack.names, keep or (), strict=False)):
            over = {row: n - most[row] for row, n in enumerate(kept[place]) if n > most[row]}
            surplus = {row: number for row, number in over.items() if row not in self.spoiled}

            def generator(row: int, name: str = name) -> torch.Generator:
                return seeded_generator(self.masking[row].seed, self.step, f"{name}/{draw}")

            drop_ties(found[place], scores[place], surplus, numbers[place][1], generator)
            for row, number in surplus.items():
                kept[place][row] -= number
        return [each.mask for each in found], kept

    def take(self, masks: Sequence[Tensor], kept: Sequence[Sequence[int]]) -> None:
        """Puts the masks in force, but not those of spoiled rows."""
        good = [row for row in range(len(self.members)) if row not in self.spoiled]
        members = [self.members[row] for row in good]
        if not members:
            return
        for place, mask in enumerate(masks):
            self.stack.put(place, members, pick(mask, good))
        sizes = [mask.shape[1] for mask in masks]
        for row in good:
            counts = [numbers[row] for numbers in kept]
            self.masking[row].pruned |= counts != sizes
            self.masking[row].taken(counts)
