"""A process's share of what all processes compute together: the sum forwards, each its own gradient backwards."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from openwork.core.backward import after_backward
from openwork.core.sharded import Shards, is_sharded, local, rows_like, shards_of


class Shares:
    """The tensors by which a process differentiates its share of a penalty, and the parameters that they stand for."""

    def __init__(self) -> None:
        self._parts: list[_Part] = []

    def stand_for(self, parameter: Tensor, whole: Tensor | None = None) -> Tensor:
        """What to compute with in the place of a sharded parameter: all of it where it is given, otherwise its rows."""
        part = local(parameter) if whole is None else whole
        leaf = part.detach().requires_grad_(parameter.requires_grad and torch.is_grad_enabled())
        if leaf.requires_grad:
            self._parts.append(_Part(leaf, parameter, whole is not None))
        return leaf

    def inputs(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """What stands for these parameters, and those of them that are not sharded."""
        chosen = {id(parameter) for parameter in parameters}
        leaves = [part.leaf for part in self._parts if id(part.parameter) in chosen]
        return leaves + [parameter for parameter in parameters if not is_sharded(parameter)]

    @torch.no_grad()
    def deliver(self) -> None:
        """Adds the gradients that have come together to those of the parameters."""
        self._sum_whole()
        for leaf, parameter, whole in self._parts:
            if leaf.grad is None:
                continue
            gradient, leaf.grad = rows_like(leaf.grad, parameter) if whole else leaf.grad, None
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            local(parameter.grad).add_(gradient)

    def _sum_whole(self) -> None:
        """Sums the gradients of what is whole in each process, in one communication."""
        parts = [(part.parameter, part.leaf.grad) for part in self._parts if part.whole and part.leaf.grad is not None]
        for (_, gradient), whole in zip(parts, summed(parts), strict=True):
            gradient.copy_(whole)


class _Part(NamedTuple):
    leaf: Tensor
    parameter: Tensor
    whole: bool


def total(own: Tensor, shards: Shards, shares: Shares) -> Tensor:
    """The sum of the processes' numbers; in backward each number gets the gradient of the sum.

    Args:
        own: This process's number, computed from ``shares`` where the weights are sharded.
        shards: The processes.
        shares: What is to be delivered at the end of backward.
    """
    if shards.group is None:
        return own
    found: Tensor = _Total.apply(own, shards, shares)  # type: ignore[no-untyped-call]
    return found


def summed(tensors: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """The sum of each second tensor over the processes of the first, in one communication for equal processes."""
    found = [tensor for _, tensor in tensors]
    places: dict[Shards, list[int]] = {}
    for place, (like, _) in enumerate(tensors):
        places.setdefault(shards_of(like), []).append(place)
    for shards, chosen in places.items():
        total = torch.cat([found[place].flatten() for place in chosen])
        shards.add(total)
        for place, part in zip(chosen, torch.split(total, [found[place].numel() for place in chosen]), strict=True):
            found[place] = part.view_as(found[place]).to(found[place])
    return found


class _Total(torch.autograd.Function):
    """The sum of the processes' shares; the gradient of each share is that of the sum."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, shards: Shards, shares: Shares) -> Tensor:
        ctx.shares = shares
        found = own.detach().clone()
        shards.add(found)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        after_backward(ctx.shares.deliver)
        return gradient, None, None
