"""The masks of many models as one: what every step does is one operation a weight for all of them.

    backward      stacked gradients, of the masked models
    take          at the steps whose gradients a technique looks at
    before_step   gradients <- gradients * masks;  hidden="trained" only: parameters <- hidden
                  optimizer's step
    after_step    hidden="trained" only: hidden <- parameters;  parameters <- parameters * masks
    update        members whose schedules are due choose new masks

Masks, hidden values and evidence of the members' own mechanisms are rows of the stacked tensors, so that each member
can be asked, saved and continued alone at any time. An update of a member is its own; `stacked_choice.py` has a faster
way for many members.

Where the gradient and the optimizer's state of a zero are zero, the step of an elementwise optimizer keeps it. So
unless hidden values are trained, parameters are masked at updates only. No other code may write to parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from openwork.core.masks.check import DivergedError
from openwork.core.masks.listening import show
from openwork.core.masks.weight import remember
from openwork.core.schedules import Schedule
from openwork.core.stacked import Stacked, Updated, stacked

if TYPE_CHECKING:
    from openwork.core.masks.mechanism import Masking


class StackedMasks(Stacked):
    """The masks of many models whose parameters are rows of stacked ones.

    Args:
        members: Their mechanisms, started, and between two steps.
        parameters: The stacked parameters by name.

    Raises:
        ValueError: If the members cannot be stacked; nothing has changed.
    """

    def __init__(self, members: Sequence[Masking], parameters: Mapping[str, Tensor]) -> None:
        check(members, parameters)
        self.members = members
        self.technique = members[0].technique
        self.names = [weight.name for weight in members[0].weights]
        self.parameters = [parameters[name].detach() for name in self.names]
        self.inputs = {}
        self.masks = {name: stacked([m.weights[p].mask for m in members]) for p, name in enumerate(self.names)}
        self.hidden: list[Tensor] = []
        """The hidden values by weight; none before there are any."""
        for place in range(len(self.names)):
            for name in members[0].weights[place].lasting:
                stacked([member.weights[place].evidence[name] for member in members])
        self.pruned = any(member.pruned for member in members)
        """Whether a mask of any member holds a zero."""
        self.diverged: set[int] = set()
        """The members that are left out."""
        self._schedules = _by_schedule(members)
        self._due: tuple[int, list[int]] = (0, [])
        self._begin_hiding(needed=self.pruned or any(w.hidden is not None for m in members for w in m.weights))

    @torch.no_grad()
    def take(self, step: int, gradients: Mapping[str, Tensor]) -> None:
        """Takes evidence where the technique asks for the gradients of this step."""
        when = self.technique.evidence.gradients
        if when == "never":
            return
        for member in self.due(step) if when == "at updates" else range(len(self.members)):
            if member not in self.diverged:
                weights = self.members[member].weights
                remember(weights)
                for weight in weights:
                    before = dict(weight.evidence)
                    show(self.technique.evidence, weight, gradients[weight.name][member])
                    for name in weight.lasting:  # what `gradient` has put in its place
                        weight.evidence[name] = before[name].copy_(weight.evidence[name])

    @torch.no_grad()
    def before_step(self, gradients: Mapping[str, Tensor]) -> None:
        """Masks the gradients, and puts hidden values back that are trained."""
        if not self.pruned:
            return
        there = [name for name in self.names if name in gradients]
        if there and not self.technique.dense_gradients:
            torch._foreach_mul_([gradients[name] for name in there], [self.masks[name] for name in there])
        if self.technique.hidden == "trained":
            torch._foreach_copy_(self.parameters, self.hidden)

    @torch.no_grad()
    def after_step(self) -> None:
        """Hides the values that are trained under the masks."""
        if self.pruned and self.technique.hidden == "trained":
            torch._foreach_copy_(self.hidden, self.parameters)
            torch._foreach_mul_(self.parameters, list(self.masks.values()))

    @torch.no_grad()
    def update(self, step: int) -> Updated:
        """Puts the masks in force that are due."""
        due = [member for member in self.due(step) if member not in self.diverged]
        if not due:
            return Updated()
        self._begin_hiding(needed=True)
        diverged = {}
        for member in due:
            try:
                self.members[member].update(step)
            except DivergedError as error:
                diverged[member] = str(error)
        self.diverged |= diverged.keys()
        changed = [member for member in due if member not in diverged and self.members[member].pruned]
        begins = bool(changed) and not self.pruned
        self.pruned |= begins
        if begins and self.hidden:  # those of members that nothing is hidden in are as old as the first update
            torch._foreach_lerp_(self.hidden, self.parameters, list(self.masks.values()))
        return Updated(changed if self.technique.hidden != "trained" else [], diverged, begins)

    def due(self, step: int) -> list[int]:
        """The members whose masks are due after ``step`` steps, in order."""
        if self._due[0] != step:
            self._schedules = [pair for pair in self._schedules if pair[0].last is None or pair[0].last >= step]
            found = [member for schedule, members in self._schedules if schedule.due(step) for member in members]
            self._due = step, sorted(found)
        return self._due[1]

    @torch.no_grad()
    def zeros(self) -> dict[str, Tensor]:
        """The number of zeros of each weight, by name, (N,) int64 on the CPU."""
        counts = torch.stack([(tensor.flatten(1) == 0).sum(1) for tensor in self.parameters]).cpu()
        return dict(zip(self.names, counts, strict=True))

    def expected_nonzero(self) -> dict[str, Tensor]:
        """The number of weights that are not zero, by name, (N,) int64 on the CPU."""
        zeros = self.zeros()
        return {name: p[0].numel() - zeros[name] for name, p in zip(self.names, self.parameters, strict=True)}

    def _begin_hiding(self, *, needed: bool) -> None:
        """Makes the members' hidden values rows, where the technique remembers them."""
        if not needed or self.hidden or self.technique.hidden == "lost":
            return
        for place in range(len(self.names)):
            weights = [member.weights[place] for member in self.members]
            for weight in weights:
                weight.begin_hiding()
            self.hidden.append(stacked([weight.hidden_values() for weight in weights]))
        torch._foreach_lerp_(self.hidden, self.parameters, list(self.masks.values()))


def _by_schedule(members: Sequence[Masking]) -> list[tuple[Schedule, list[int]]]:
    """The members with each schedule, since asking thousands at each step takes too long."""
    found: dict[object, tuple[Schedule, list[int]]] = {}
    for index, member in enumerate(members):
        schedule = member.technique.schedule
        try:
            key: object = hash(schedule) and schedule
        except TypeError:  # a field of it is a list
            key = id(schedule)
        found.setdefault(key, (schedule, []))[1].append(index)
    return list(found.values())


def check(members: Sequence[Masking], parameters: Mapping[str, Tensor]) -> None:
    """Checks that the masks of these members can be stacked.

    Raises:
        ValueError: If techniques differ in their class or in what they do with hidden values, if weights differ in
            name, shape, dtype, device or evidence, if they are sharded, or if parameters are no rows of stacked ones.
    """
    first = members[0]
    for index, member in enumerate(members):
        technique, then = member.technique, first.technique
        if type(technique) is not type(then) or technique.hidden != then.hidden:
            raise ValueError(
                f"{technique} (member {index}) cannot be stacked with {then}: class and hidden= must be equal; train "
                "these models in two groups"
            )
        if any(weight.sharded for weight in member.weights):
            raise ValueError(
                f"{technique} (member {index}) cannot be stacked: fully_shard spreads its weights over processes; "
                "train these models one by one"
            )
        for weight, like in zip(member.weights, first.weights, strict=False):
            kinds = [
                (w.name, tuple(w.local.shape), w.local.dtype, w.local.device, _kinds(w.evidence, w.lasting))
                for w in (weight, like)
            ]
            if kinds[0] != kinds[1]:
                raise ValueError(
                    f"{weight.name} (member {index}) cannot be stacked: name, shape, dtype, device and evidence are "
                    f"{kinds[0]}, and {kinds[1]} in the first model; train these models in two groups"
                )
            if parameters[weight.name][index].data_ptr() != weight.local.data_ptr():
                raise ValueError(
                    f"{weight.name} (member {index}) cannot be stacked: it is not row {index} of the stacked "
                    "parameter; pass what core.stacked.stacked() made of the models' own"
                )
        if len(member.weights) != len(first.weights):
            raise ValueError(
                f"member {index} cannot be stacked: it has {len(member.weights)} selected weights and the first model "
                f"{len(first.weights)}; train these models in two groups"
            )


def _kinds(evidence: Mapping[str, Tensor], lasting: frozenset[str]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {name: (tuple(evidence[name].shape), evidence[name].dtype) for name in sorted(lasting)}
