"""One selected weight with its mask."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from openwork.core.masks.counting import count_each
from openwork.core.masks.evidence import Kept, View
from openwork.core.selection import Weight
from openwork.core.sharded import is_sharded, local, rows_like, shard_like, version
from openwork.kernels.masks import hide_, mask_, remember_, restore_

if TYPE_CHECKING:
    from openwork.core.masks.update import Chosen


class MaskedWeight:
    """A weight with its mask, the values hidden under it, and what evidence keeps; if sharded, of the rows here."""

    def __init__(self, source: Weight, *, keep_zeros: bool) -> None:
        self.source = source
        # FSDP2 puts the whole weight into the module between its forward and backward; the shard stays the parameter.
        self._shard: Tensor | None = None
        self._of_shard = False  # whether mask and hidden values are those of the shard's rows
        parameter = self.local
        # A full copy, of which only the places under the mask mean anything.
        self._hidden: Tensor | None = None
        # Where the weight may ever be kept; all of it, unless the model's own zeros are to stay.
        self.allowed: Tensor | None = parameter.detach() != 0 if keep_zeros else None
        # In place at each update, so that a CUDA graph that holds a step follows.
        self._mask = torch.ones_like(parameter, dtype=torch.bool, requires_grad=False)
        if self.allowed is not None:
            self._mask.copy_(self.allowed)
        self.evidence: Kept = {}
        self.lasting: frozenset[str] = frozenset()
        """The names in ``evidence`` that are part of the state."""
        self.empty = not parameter.numel()
        """Whether the mask keeps no weight."""
        self.restored = False
        """Whether the parameter holds its hidden values at this moment."""
        self.clean_gradient: tuple[weakref.ref[Tensor], int] | None = None
        """The gradient that was last masked, and its version then. Not its id, which the next gradient may get."""
        self.clean_parameter = -1
        """The version of the parameter after the last step."""

    @property
    def name(self) -> str:
        """The weight's name."""
        return self.source.name

    @property
    def parameter(self) -> Tensor:
        """The parameter as the optimizer has it: a DTensor where it is sharded."""
        parameter: Tensor = self.source.parameter
        if is_sharded(parameter):
            self._shard = parameter
        return parameter if self._shard is None else self._shard

    @property
    def local(self) -> Tensor:
        """The part of the parameter that is here."""
        parameter = self.parameter
        return parameter if self._shard is None else local(parameter)

    @property
    def sharded(self) -> bool:
        """Whether FSDP2 was seen to shard it at any time."""
        return self._shard is not None

    @property
    def newly_sharded(self) -> bool:
        """Whether it is sharded, and the mask is still that of the whole weight."""
        return is_sharded(self.parameter) and not self._of_shard

    @property
    def mask(self) -> Tensor:
        """The mask, bool, True = keep, in the parameter's present device and sharding, either of which may change."""
        self._refit()
        return self._mask

    @property
    def hidden(self) -> Tensor | None:
        """The hidden values; None before there are any."""
        self._refit()
        return self._hidden

    def begin_hiding(self) -> None:
        """Makes room for hidden values where there is none yet; they start as the parameter's."""
        if self.hidden is None:
            self._hidden = self.local.detach().clone()

    def hidden_values(self) -> Tensor:
        """``hidden``, where there are some."""
        hidden = self.hidden
        assert hidden is not None
        return hidden

    def fitted(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """What is here of the parameter, `mask` and `hidden`: where all are needed, the parameter is looked up once."""
        return self._refit(), self._mask, self._hidden

    def values(self) -> Tensor:
        """All values, including the hidden ones, sharded like the parameter; right only after `remember`.

        They share the memory of the parameter or of the hidden values.
        """
        if (hidden := self.hidden) is None or self.restored:
            return self.parameter.detach()
        return hidden if self._shard is None else shard_like(hidden, self._shard)

    def view(self, *, step: int, seed: int) -> View:
        """What a technique sees; right only after `remember`."""
        values = self.values()  # which brings the mask up to date
        return View(self.name, values, self.evidence, step, shard_like(self._mask, values), self.source.layout, seed)

    def zero(self) -> Tensor:
        """0, of shape (), float32 whatever the weight's dtype, on the weight's device."""
        return torch.zeros((), device=self._mask.device)

    def zeros_as_saved(self) -> int:
        """The number of zeros of the mask as it was last used, perhaps before the parameter was sharded."""
        return self._mask.numel() - int(self._mask.count_nonzero())

    def solve(self, values: Tensor, *, remembers: bool) -> None:
        """Takes over values that a technique found together with the mask; the hidden ones stay.

        Args:
            values: The new values of the rows here.
            remembers: Whether the technique remembers hidden values.
        """
        if remembers and self._hidden is not None:
            torch.where(self._mask, values, self._hidden, out=self._hidden)
        self.local.copy_(values)

    def replace(self, mask: Tensor, hidden: Tensor | None, allowed: Tensor | None, evidence: Kept) -> None:
        """Takes over a saved state, of the rows here, in the tensors of which a CUDA graph may know the places."""
        self._mask, self._hidden = _into(self._mask, mask), None if hidden is None else _into(self._hidden, hidden)
        self.allowed, self.evidence = allowed, evidence
        self._of_shard, self.restored = self.sharded, False

    def write_clean(self) -> None:
        """Notes that the parameter has its zeros now."""
        self.clean_parameter = version(self.parameter)

    @property
    def overwritten(self) -> bool:
        """Whether other code wrote to the parameter since `write_clean`, as far as version counters show."""
        return version(self.parameter) != self.clean_parameter

    def is_clean(self, gradient: Tensor) -> bool:
        """Whether nobody wrote to the gradient since it was masked, as far as version counters show."""
        if self.clean_gradient is None:
            return False
        masked, then = self.clean_gradient
        return masked() is gradient and version(gradient) == then

    def forget(self) -> None:
        """Drops the evidence that lasts only until an update."""
        if self.evidence:  # most techniques need none, and a fleet asks thousands of weights
            for name in self.evidence.keys() - self.lasting:
                del self.evidence[name]

    def _refit(self) -> Tensor:
        """`local`, once mask, hidden values and evidence have its device and sharding."""
        part = whole = self.parameter
        if self._shard is not None:
            part = local(whole)
            self._of_shard = True
            for name, value in self.evidence.items():
                if value.shape == whole.shape and not is_sharded(value):  # also where all rows are here
                    self.evidence[name] = shard_like(rows_like(value, whole), whole)
        if part is not whole and self._mask.shape != part.shape:
            self._mask = rows_like(self._mask, whole)
            if self._hidden is not None:
                self._hidden = rows_like(self._hidden, whole)
            if self.allowed is not None:
                self.allowed = rows_like(self.allowed, whole)
        device, hidden = part.device, self._hidden
        if hidden is not None and (hidden.dtype != part.dtype or hidden.device != device):
            self._hidden = hidden.to(part)
        if self._mask.device != device:
            self._mask = self._mask.to(device)
            if self.allowed is not None:
                self.allowed = self.allowed.to(device)
            for name, value in self.evidence.items():
                self.evidence[name] = value.to(device)
        return part


def _into(own: Tensor | None, values: Tensor) -> Tensor:
    """The tensor itself with other values; these where they do not fit into it."""
    fits = own is not None and (own.shape, own.dtype, own.device) == (values.shape, values.dtype, values.device)
    return own.copy_(values) if own is not None and fits else values


def remember(weights: Sequence[MaskedWeight]) -> None:
    """Brings the kept places of the hidden values up to date; those under the masks stay as they are."""
    fitted = [weight.fitted() for weight in weights if not weight.restored]
    hiding = [(hidden, values, mask) for values, mask, hidden in fitted if hidden is not None]
    if hiding:
        remember_(*zip(*hiding, strict=True))


def hide(weights: Sequence[MaskedWeight]) -> None:
    """Remembers the parameters' values as they are, all of them."""
    for weight in weights:
        weight.begin_hiding()
    if weights:
        torch._foreach_copy_([weight.hidden_values() for weight in weights], [weight.local for weight in weights])
    for weight in weights:
        weight.restored = False


def hide_and_mask(weights: Sequence[MaskedWeight]) -> None:
    """Remembers the parameters' values as they are, and then puts the zeros into the parameters."""
    for weight in weights:
        weight.begin_hiding()
    hidden, masks = [weight.hidden_values() for weight in weights], [weight.mask for weight in weights]
    hide_([weight.local for weight in weights], hidden, masks)
    for weight in weights:
        weight.restored = False


def apply_masks(weights: Sequence[MaskedWeight]) -> None:
    """Puts the zeros into the parameters."""
    fitted = [weight.fitted() for weight in weights]
    mask_([values for values, _, _ in fitted], [mask for _, mask, _ in fitted])


def unhide(weights: Sequence[MaskedWeight]) -> None:
    """Puts the hidden values, where there are any, into the parameters; right only after `remember`."""
    hiding = [(weight.local, weight._hidden) for weight in weights if weight._hidden is not None]
    if hiding:
        torch._foreach_copy_([values for values, _ in hiding], [hidden for _, hidden in hiding])
    for weight in weights:
        weight.restored |= weight._hidden is not None


def change_masks(weights: Sequence[MaskedWeight], chosen: Sequence[Chosen], *, remembers: bool) -> None:
    """Puts new masks in force, with what was solved for them and their zeros; right only after `remember`.

    Args:
        weights: The weights.
        chosen: The next mask of each.
        remembers: Whether what is masked is hidden, and what is kept gets its hidden value.
    """
    if remembers:
        hide([weight for weight in weights if weight.restored or weight._hidden is None])
        unhide(weights)
    masks = [weight._mask for weight in weights]
    torch._foreach_copy_(masks, [one.mask for one in chosen])
    for weight, one in zip(weights, chosen, strict=True):
        if one.values is not None:
            weight.solve(one.values, remembers=remembers)
    mask_([weight.local for weight in weights], masks)


def restore(weights: Sequence[MaskedWeight], *, overwritten: bool) -> None:
    """Puts the hidden values, where there are any, back into the parameters, for the optimizer to move them.

    Args:
        weights: The weights.
        overwritten: Whether other code wrote to parameters since the last step. Unless it did, the hidden values agree
            with the parameters that are kept. A GPU writes only to what is masked in any case, for a CUDA graph does
            not know what is written between its replays.
    """
    hiding = [weight for weight in weights if weight.hidden is not None and not weight.restored]  # or the last failed
    if not overwritten and not any(weight.local.is_cuda for weight in hiding):
        unhide(hiding)
        return
    restore_([w.local for w in hiding], [w.hidden_values() for w in hiding], [w.mask for w in hiding])
    for weight in hiding:
        weight.restored = True


def count_masked(weights: Sequence[MaskedWeight]) -> list[int]:
    """The number of masked weights of each, of all shards together."""
    return count_each((~weight.mask for weight in weights), [weight.parameter for weight in weights])


def check_parameters(weights: Sequence[MaskedWeight]) -> None:
    """Checks that the masks of all processes fit together, if the parameters have been sharded since.

    Raises:
        ValueError: If the processes had different weights in `sparsify`.
    """
    newly = any(weight.newly_sharded for weight in weights)
    whole = [weight.zeros_as_saved() for weight in weights] if newly else []
    if newly and count_masked(weights) != whole:
        raise ValueError(
            "the processes had different weights in sparsify, so their masks do not fit together; start all "
            "processes from one seed, or call sparsify after fully_shard"
        )
