"""Many models trained as one: the mechanisms of N models whose tensors are rows of stacked ones.

Each model keeps its own `Sparsifier`; what happens at every step is done here for all of them at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

if TYPE_CHECKING:
    from openwork.core.sparsifier import Sparsifier


@dataclass(frozen=True)
class Updated:
    """What an update changed.

    Args:
        changed: The members whose masks are new, and whose optimizer state is to be zeroed under them.
        diverged: Why a member has diverged, by member.
        restarted: The members whose optimizer state of the masked weights is to be zeroed altogether.
        recapture: Whether `Stacked.before_step` and `Stacked.after_step` do other things from now on, so that a CUDA
            graph must be captured anew.
    """

    changed: Sequence[int] = ()
    diverged: Mapping[int, str] = field(default_factory=dict)
    recapture: bool = False
    restarted: Sequence[int] = ()


class Stacked(ABC):
    """The mechanisms of N models that are trained as one; the tensors of member i are row i of the stacked ones.

    Attributes:
        inputs: What forward and penalty read besides parameters and buffers, by name, (N, ...); `update` writes to
            them in place.
        masks: The masks by weight, (N, *shape), bool, True = keep; empty for random weights.
        moves_hidden: Whether steps of the optimizer move the values under the masks, too. If not, gradients of weights
            which the optimizer itself keeps at zero need no `before_step`.
    """

    inputs: dict[str, Tensor]
    masks: dict[str, Tensor]
    moves_hidden: bool = False

    def using(self, inputs: Mapping[str, Tensor]) -> AbstractContextManager[object]:
        """Within it, the first member's mechanism reads ``inputs`` of one member; by default it needs none."""
        return nullcontext()

    def take(self, step: int, gradients: Mapping[str, Tensor]) -> None:
        """Takes evidence from the gradients, before they are masked; by default there is none to take.

        Args:
            step: The number of steps when this one is completed.
            gradients: By parameter, (N, *shape).
        """
        return

    def before_step(self, gradients: Mapping[str, Tensor]) -> None:
        """Readies gradients and weights for the optimizer's step, in place; by default there is nothing to do.

        The same operations on the device each time until `update` asks to `Updated.recapture`, without waiting for it:
        a CUDA graph may hold them.
        """
        return

    def after_step(self) -> None:
        """Does what follows every step of the optimizer, as `before_step` does; by default nothing."""
        return

    @abstractmethod
    def update(self, step: int) -> Updated:
        """Does what is due once ``step`` steps are completed: new masks, the next coefficients."""

    @abstractmethod
    def zeros(self) -> dict[str, Tensor]:
        """The number of zeros of each weight in evaluation, by name, (N,) int64."""

    @abstractmethod
    def expected_nonzero(self) -> dict[str, Tensor]:
        """The number of non-zero weights that training computes with, by name, (N,)."""

    def counts(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """`zeros` and `expected_nonzero`, which need not be counted twice where one follows from the other."""
        return self.zeros(), self.expected_nonzero()

    def finalized_copies(self, sparsifiers: "Sequence[Sparsifier]") -> list[nn.Module]:
        """What `Sparsifier.finalized_copy` returns for each of some members; by default one is made after the other.

        Args:
            sparsifiers: Those of the members.
        """
        return [sparsifier.finalized_copy() for sparsifier in sparsifiers]

    def leave(self, members: Sequence[int], copied: Callable[[Tensor], Tensor]) -> None:
        """Moves to the CPU what these members keep besides parameters and buffers; by default nothing.

        Their training has ended: they are rows no longer, but may be asked and saved. To be called before their models
        move.

        Args:
            members: The members.
            copied: As `move` takes it.
        """
        return


@torch.no_grad()
def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors as one, (N, *shape), of which each becomes a row.

    Args:
        tensors: Of one shape and dtype, on one device. What refers to them sees the row from now on.
    """
    # Contiguous, as gradients are: torch's fused optimizers look at the memory of both, and channels may be last there.
    whole = torch.stack([tensor.data for tensor in tensors]).contiguous()
    for tensor, row in zip(tensors, whole, strict=True):
        tensor.data = row
    return whole


@torch.no_grad()
def move(tensors: Sequence[Tensor], copied: Callable[[Tensor], Tensor]) -> None:
    """Moves tensors to other memory, by one copy, of which each becomes a row.

    Args:
        tensors: Of one shape and dtype, on one device. What refers to them sees the row from now on.
        copied: Returns a copy elsewhere, such as `Tensor.cpu`.
    """
    whole = copied(torch.stack([tensor.data for tensor in tensors]))
    for tensor, row in zip(tensors, whole, strict=True):
        tensor.data = row


def pick(whole: Tensor, members: Sequence[int]) -> Tensor:
    """The rows of these members, in order; in the same memory where they lie side by side."""
    if members[-1] - members[0] == len(members) - 1:
        return whole[members[0] : members[-1] + 1]
    return whole[torch.tensor(members, device=whole.device)]


def rows_to_write(whole: Tensor, members: Sequence[int]) -> Tensor:
    """Where to write what is to be `put` for these members: their own rows where they lie side by side."""
    if members[-1] - members[0] == len(members) - 1:
        return whole[members[0] : members[-1] + 1]
    return whole.new_empty(len(members), *whole.shape[1:])


def put(whole: Tensor, members: Sequence[int], rows: Tensor) -> None:
    """Writes the rows of these members, in order."""
    if members[-1] - members[0] == len(members) - 1:
        place = whole[members[0] : members[-1] + 1]
        if place.data_ptr() != rows.data_ptr():  # what `pick` or `rows_to_write` gave is there
            place.copy_(rows)
    else:
        whole[torch.tensor(members, device=whole.device)] = rows


def stack(sparsifiers: "Sequence[Sparsifier]", parameters: Mapping[str, Tensor]) -> Stacked:
    """What makes the weights of several models sparse at once, in place of their sparsifiers' own steps.

    Args:
        sparsifiers: Those of the models, before training or with a state loaded, without an optimizer attached. Call
            `Sparsifier.count_to` of one before you use its ``steps``, save its state, or go on with it alone.
        parameters: The stacked parameters by name, (N, *shape), as `stacked` made them of the models' own.

    Raises:
        ValueError: If these cannot be stacked; nothing has changed.
    """
    mechanisms = [sparsifier.mechanism for sparsifier in sparsifiers]
    first = type(mechanisms[0])
    if other := next((type(each) for each in mechanisms if type(each) is not first), None):
        raise ValueError(f"{other.__name__} cannot be stacked with {first.__name__}; train these models in two groups")
    return first.stack(mechanisms, parameters)


def call_with(module: nn.Module, tensors: Mapping[str, Tensor], *args: Any) -> Any:
    """``module(*args)``, computed with other tensors in the place of the module's own.

    As `functional_call`, which leaves one of them behind where two modules share a third one.

    Args:
        module: The module.
        tensors: By the first name of the parameter or buffer that each replaces; the others stay.
        args: What the module is called with.
    """
    own = chain(module.named_parameters(), module.named_buffers())
    new = {id(tensor): tensors[name] for name, tensor in own if name in tensors}
    places = {
        name: new[id(tensor)]
        for prefix, each in module.named_modules()  # a shared one is there once
        for name, tensor in chain(
            each.named_parameters(prefix, recurse=False, remove_duplicate=False),
            each.named_buffers(prefix, recurse=False, remove_duplicate=False),
        )
        if id(tensor) in new
    }
    return functional_call(module, places, args, tie_weights=False)
