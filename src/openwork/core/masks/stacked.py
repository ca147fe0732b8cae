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

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from openwork.core.masks.check import DivergedError
from openwork.core.masks.counting import true_by_row
from openwork.core.masks.finalized import masked_copies
from openwork.core.masks.stacked_check import check_stack
from openwork.core.masks.stacked_choice import alike, scorer, update_many
from openwork.core.masks.stacked_evidence import show_to_many, show_to_one
from openwork.core.schedules import Schedule
from openwork.core.stacked import Stacked, Updated, move, pick, put, rows_to_write, stacked
from openwork.kernels.masks import hide_, mask_, remember_

if TYPE_CHECKING:
    from openwork.core.masks.mechanism import Masking
    from openwork.core.sparsifier import Sparsifier


class StackedMasks(Stacked):
    """The masks of many models whose parameters are rows of stacked ones.

    Args:
        members: Their mechanisms, started, and between two steps.
        parameters: The stacked parameters by name.

    Raises:
        ValueError: If the members cannot be stacked; nothing has changed.
    """

    def __init__(self, members: Sequence[Masking], parameters: Mapping[str, Tensor]) -> None:
        check_stack(members, parameters)
        self.members = members
        self.technique = members[0].technique
        self.moves_hidden = self.technique.hidden == "trained"
        self.techniques = alike([member.technique for member in members])
        """Each member's technique; equal ones are one object, as are these:"""
        self.scorers = alike([scorer(technique) for technique in self.techniques])
        self.names = [weight.name for weight in members[0].weights]
        self.parameters = [parameters[name].detach() for name in self.names]
        self.inputs = {}
        self.masks = {name: stacked([m.weights[p].mask for m in members]) for p, name in enumerate(self.names)}
        self._every_mask = list(self.masks.values())
        self.hidden: list[Tensor] = []
        """The hidden values by weight; none before there are any."""
        self.evidence = [
            {name: stacked([m.weights[p].evidence[name] for m in members]) for name in sorted(weight.lasting)}
            for p, weight in enumerate(members[0].weights)
        ]
        """What evidence keeps for good, by weight and name."""
        self.pruned = any(member.pruned for member in members)
        """Whether a mask of any member holds a zero."""
        self.diverged: set[int] = set()
        """The members that are left out."""
        self.many = self.parameters[0].device.type != "cpu"
        """Whether to ask techniques about many members at once; on a CPU that gains little."""
        self.shown = False
        """Whether gradients have been shown to the evidence of many members at once."""
        self._schedules = _by_schedule(members)
        self._due: tuple[int, list[int]] = (0, [])
        self._begin_hiding(needed=self.pruned or any(w.hidden is not None for m in members for w in m.weights))

    @torch.no_grad()
    def take(self, step: int, gradients: Mapping[str, Tensor]) -> None:
        """Takes evidence where the technique asks for the gradients of this step."""
        when = self.technique.evidence.gradients
        if when == "never":
            return
        every = when == "every step"
        if every and self.many and show_to_many(self, range(len(self.members)), gradients):
            return  # nobody will ask for those of members that have diverged
        asked = range(len(self.members)) if every else self.due(step)
        members = [member for member in asked if member not in self.diverged]
        if members and (every or not self.many or not show_to_many(self, members, gradients)):
            for member in members:
                show_to_one(self, member, gradients)

    @torch.no_grad()
    def before_step(self, gradients: Mapping[str, Tensor]) -> None:
        """Masks the gradients, and puts hidden values back that are trained."""
        if not self.pruned:
            return
        there = [name for name in self.names if name in gradients]
        if there and not self.technique.dense_gradients:
            mask_([gradients[name] for name in there], [self.masks[name] for name in there])
        if self.moves_hidden:
            torch._foreach_copy_(self.parameters, self.hidden)

    @torch.no_grad()
    def after_step(self) -> None:
        """Hides the values that are trained under the masks."""
        if self.pruned and self.moves_hidden:
            hide_(self.parameters, self.hidden, self._every_mask)

    @torch.no_grad()
    def update(self, step: int) -> Updated:
        """Puts the masks in force that are due."""
        due = [member for member in self.due(step) if member not in self.diverged]
        if not due:
            return Updated()
        self._begin_hiding(needed=True)
        diverged = {}
        done = update_many(self, due, step) if self.many else []
        for member in sorted(set(due).difference(done)):
            try:
                self.members[member].update(step)
            except DivergedError as error:
                diverged[member] = str(error)
        self.diverged |= diverged.keys()
        changed = [member for member in due if member not in diverged and self.members[member].pruned]
        begins = bool(changed) and not self.pruned
        self.pruned |= begins
        if begins and self.hidden:  # those of members that nothing is hidden in are as old as the first update
            remember_(self.hidden, self.parameters, self._every_mask)
        if begins:
            self._rehearse()
        if self.moves_hidden:
            return Updated([], diverged, begins)
        return Updated(changed, diverged, begins, [m for m in changed if self.techniques[m].restarts(step)])

    def due(self, step: int) -> list[int]:
        """The members whose masks are due after ``step`` steps, in order."""
        if self._due[0] != step:
            asked = [each for each in self._schedules if each[1] is None or step <= each[1]]
            found = [member for schedule, _, members in asked if schedule.due(step) for member in members]
            self._due = step, sorted(found)
        return self._due[1]

    def remember(self, members: Sequence[int]) -> None:
        """Brings the kept places of these members' hidden values up to date, as a member's own update does."""
        for hidden, values, mask in zip(self.hidden, self.parameters, self.masks.values(), strict=False):
            own = pick(hidden, members)
            remember_([own], [pick(values, members)], [pick(mask, members)])
            put(hidden, members, own)

    def values(self, place: int, members: Sequence[int]) -> Tensor:
        """A weight's values, the hidden ones included, of these members; right only after `remember`."""
        return pick(self.hidden[place] if self.hidden else self.parameters[place], members)

    def put(self, place: int, members: Sequence[int], mask: Tensor) -> None:
        """Puts new masks of a weight in force; right only after `remember`.

        Args:
            place: The weight's.
            members: The members.
            mask: Their masks, bool.
        """
        values = self.values(place, members)
        kept = mask.view_as(values)
        put(self.masks[self.names[place]], members, kept)
        own = rows_to_write(self.parameters[place], members)
        put(self.parameters[place], members, torch.mul(values, kept, out=own))

    @torch.no_grad()
    def zeros(self) -> dict[str, Tensor]:
        """The number of zeros of each weight, by name, (N,) int64 on the CPU."""
        counts = torch.stack([true_by_row(tensor == 0) for tensor in self.parameters]).cpu()
        return dict(zip(self.names, counts, strict=True))

    def expected_nonzero(self) -> dict[str, Tensor]:
        """The number of weights that are not zero, by name, (N,) int64 on the CPU."""
        return self.counts()[1]

    def counts(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The numbers of weights that are zero and that are not, by name, (N,) int64 on the CPU."""
        zeros = self.zeros()
        return zeros, {name: p[0].numel() - zeros[name] for name, p in zip(self.names, self.parameters, strict=True)}

    def finalized_copies(self, sparsifiers: Sequence[Sparsifier]) -> list[nn.Module]:
        """Those of many members at once on a GPU."""
        if not self.many:
            return super().finalized_copies(sparsifiers)
        members = [cast("Masking", sparsifier.mechanism) for sparsifier in sparsifiers]
        return masked_copies([each.model for each in sparsifiers], [member.weights for member in members])

    def leave(self, members: Sequence[int], copied: Callable[[Tensor], Tensor]) -> None:
        """Moves masks, hidden values and what evidence keeps for good."""
        for weights in zip(*(self.members[member].weights for member in members), strict=True):
            evidence = [[weight.evidence[name] for weight in weights] for name in sorted(weights[0].lasting)]
            kept = [[w.mask for w in weights], [w.hidden for w in weights], [w.allowed for w in weights], *evidence]
            for there in ([tensor for tensor in each if tensor is not None] for each in kept):
                if there:
                    move(there, copied)

    def _rehearse(self) -> None:
        """Does what a step does to the parameters, which leaves them as they are: a CUDA graph loads no kernels."""
        mask_(self.parameters, self._every_mask)
        if self.moves_hidden:
            torch._foreach_copy_(self.parameters, self.hidden)
            self.after_step()

    def _begin_hiding(self, *, needed: bool) -> None:
        """Makes the members' hidden values rows, where the technique remembers them."""
        if not needed or self.hidden or self.technique.hidden == "lost":
            return
        for place in range(len(self.names)):
            weights = [member.weights[place] for member in self.members]
            for weight in weights:
                weight.begin_hiding()
            self.hidden.append(stacked([weight.hidden_values() for weight in weights]))
        remember_(self.hidden, self.parameters, self._every_mask)


def _by_schedule(members: Sequence[Masking]) -> list[tuple[Schedule, int | None, list[int]]]:
    """Each schedule, its last step and the members that follow it: asking thousands at each step would take long."""
    found: dict[int, tuple[Schedule, int | None, list[int]]] = {}
    for index, schedule in enumerate(alike([member.technique.schedule for member in members])):
        found.setdefault(id(schedule), (schedule, schedule.last, []))[2].append(index)
    return list(found.values())
