"""Gradients shown to the evidence of many models: to each by itself, or by torch.func.vmap to all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from openwork.core.masks.check import unchanged
from openwork.core.masks.evidence import Kept
from openwork.core.masks.listening import show
from openwork.core.masks.weight import remember
from openwork.core.precision import exact
from openwork.core.stacked import pick, put

if TYPE_CHECKING:
    from openwork.core.masks.stacked import StackedMasks


def show_to_one(stack: StackedMasks, member: int, gradients: Mapping[str, Tensor]) -> None:
    """Shows one member's gradients to the evidence of its weights."""
    weights = stack.members[member].weights
    remember(weights)
    for weight in weights:
        before = dict(weight.evidence)
        gradient = gradients[weight.name][member] if weight.name in gradients else torch.zeros_like(weight.local)
        show(stack.technique.evidence, weight, gradient)
        for name in weight.lasting:  # it stays a row, also where a new tensor has taken its place
            weight.evidence[name] = before[name].copy_(weight.evidence[name])


def show_to_many(stack: StackedMasks, members: Sequence[int], gradients: Mapping[str, Tensor]) -> bool:
    """Shows the gradients of some members to their evidence; False, and nothing has changed, where vmap cannot.

    Args:
        stack: The masks of all members.
        members: Some of them.
        gradients: By parameter, (N, *shape).
    """
    if any(name not in gradients for name in stack.names):  # a frozen weight
        return False
    stack.remember(members)
    try:
        if not stack.shown:  # what cannot be shown to one in this way is found before anything changes
            for place in range(len(stack.names)):
                kept = {name: value.clone() for name, value in _kept(stack, place, members[:1]).items()}
                _shown(stack, place, members[:1], kept, gradients)
    except Exception:  # vmap may raise anything, and alone the evidence says for itself what is wrong
        return False
    stack.shown = True
    for place, name in enumerate(stack.names):
        own = stack.evidence[place]
        found = _shown(stack, place, members, _kept(stack, place, members), gradients)
        for key, value in found.items():
            if key in own:
                put(own[key], members, value)
                continue
            if value.untyped_storage().data_ptr() in _storages(stack, place, gradients[name]):
                value = value.clone()  # both are written to after this
            for row, member in enumerate(members):
                stack.members[member].weights[place].evidence[key] = value[row]
    return True


def _kept(stack: StackedMasks, place: int, members: Sequence[int]) -> Kept:
    """What evidence has kept until now for some members' weight; it may share the memory of the stack's."""
    kept = {name: pick(value, members) for name, value in stack.evidence[place].items()}
    for name in stack.members[members[0]].weights[place].evidence.keys() - kept.keys():
        kept[name] = torch.stack([stack.members[member].weights[place].evidence[name] for member in members])
    return kept


def _shown(
    stack: StackedMasks, place: int, members: Sequence[int], kept: Kept, gradients: Mapping[str, Tensor]
) -> Kept:
    """What is kept once the evidence has seen the gradients, perhaps in the memory of ``kept``."""
    evidence, name = stack.technique.evidence, stack.names[place]
    values, gradient = exact(stack.values(place, members)), exact(pick(gradients[name], members))

    def one(kept: Kept, values: Tensor, gradient: Tensor) -> Kept:
        kept = dict(kept)
        evidence.gradient(kept, values, gradient)
        return kept

    with unchanged(f"{type(evidence).__name__}.gradient", {name: values, f"{name}.grad": gradient}):
        found: Kept = torch.func.vmap(one)(kept, values, gradient)
    passing = found.keys() - stack.evidence[place].keys() - {"gradient"}
    if passing and evidence.gradients == "every step":
        raise ValueError(f"{min(passing)!r} is no part of the state")  # which `show` says in full
    return found


def _storages(stack: StackedMasks, place: int, gradient: Tensor) -> set[int]:
    shared = [stack.parameters[place], gradient, *stack.hidden[place : place + 1]]
    return {tensor.untyped_storage().data_ptr() for tensor in shared}
