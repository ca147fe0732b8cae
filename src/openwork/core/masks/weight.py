"""One selected weight under its mask."""

from collections.abc import Sequence

import torch
from torch import Tensor

from openwork.core.masks.evidence import Kept, View
from openwork.core.selection import Weight
from openwork.core.sharded import is_sharded, local, rows_like, shard_like, version


class MaskedWeight:
    """A weight with its mask, the values hidden under it, and what evidence keeps; where sharded, of the rows here."""

    def __init__(self, source: Weight, *, keep_zeros: bool) -> None:
        self.source = source
        # FSDP2 puts the whole weight into the module between its forward and backward; the shard stays the parameter.
        self._shard: Tensor | None = None
        parameter = self.local
        # Kept in the weight's dtype: multiplying by bool masks is 2.6 times slower on a GPU and slower on a CPU.
        self._mask = torch.ones_like(parameter, requires_grad=False)
        # A full copy, of which only the places under the mask mean anything.
        self._hidden: Tensor | None = None
        # Where the weight may ever be kept; all of it, unless the model's own zeros are to stay.
        self.allowed: Tensor | None = parameter.detach() != 0 if keep_zeros else None
        self.evidence: Kept = {}
        self.lasting: frozenset[str] = frozenset()
        """The names in ``evidence`` that are part of the state."""
        self.restored = False
        """Whether the parameter holds its hidden values at this moment."""
        self.clean_gradient: tuple[int, int] | None = None
        """(id, version) of the gradient when it was last masked."""
        self.clean_parameter = -1
        """The version of the parameter after the last step."""

    @property
    def name(self) -> str:
        """The weight's."""
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
        return local(self.parameter)

    @property
    def sharded(self) -> bool:
        """Whether FSDP2 has ever been seen to shard it."""
        return self._shard is not None

    @property
    def mask(self) -> Tensor:
        """The mask, 1 = keep, as the parameter is now: `fully_shard`, `model.half()` and `.to()` may come any time."""
        self._refit()
        return self._mask

    @property
    def hidden(self) -> Tensor | None:
        """The hidden values, None until there are some."""
        self._refit()
        return self._hidden

    def begin_hiding(self) -> None:
        """Makes room for hidden values, where there is none yet: they are the parameter's."""
        if self.hidden is None:
            self._hidden = self.local.detach().clone()

    def hidden_values(self) -> Tensor:
        """``hidden``, where there are some."""
        hidden = self.hidden
        assert hidden is not None
        return hidden

    def values(self) -> Tensor:
        """The values with the hidden ones, sharded like the parameter, whose memory or the hidden values' they share.

        They are right after `remember`.
        """
        whole = self.parameter.detach()
        hidden = self.hidden
        return whole if hidden is None or self.restored else shard_like(hidden, whole)

    def view(self, *, step: int, seed: int) -> View:
        """What a technique sees, after `remember`."""
        kept = shard_like(self.mask, self.parameter)
        return View(self.source, self.values(), kept, self.evidence, step, seed)

    def zero(self) -> Tensor:
        """0, of shape (), where the weight is."""
        return self._mask.new_zeros(())

    def zeros_as_saved(self) -> int:
        """The zeros of the mask as it was before the parameter was perhaps sharded."""
        return self._mask.numel() - int(self._mask.count_nonzero())

    def replace(self, mask: Tensor, hidden: Tensor | None, allowed: Tensor | None, evidence: Kept) -> None:
        """Takes over a saved state, of the rows here."""
        self._mask, self._hidden, self.allowed, self.evidence = mask, hidden, allowed, evidence
        self.restored = False

    def write_clean(self) -> None:
        """Notes that the parameter is as the masks want it."""
        self.clean_parameter = version(self.parameter)

    def forget(self) -> None:
        """Drops the evidence that lasts until an update only."""
        for name in self.evidence.keys() - self.lasting:
            del self.evidence[name]

    def _refit(self) -> None:
        whole = self.parameter
        part = local(whole)
        mask = self._mask
        if self._shard is not None and mask.shape != part.shape:
            self.evidence = {
                name: shard_like(rows_like(value, whole), whole) if value.shape == whole.shape else value
                for name, value in self.evidence.items()
            }
            mask = self._mask = rows_like(mask, whole)
            if self._hidden is not None:
                self._hidden = rows_like(self._hidden, whole)
            if self.allowed is not None:
                self.allowed = rows_like(self.allowed, whole)
        if mask.dtype != part.dtype or mask.device != part.device:
            self._mask = mask.to(part)
            if self._hidden is not None:
                self._hidden = self._hidden.to(part)
            if self.allowed is not None:
                self.allowed = self.allowed.to(part.device)
            self.evidence = {name: value.to(part.device) for name, value in self.evidence.items()}


def remember(weights: Sequence[MaskedWeight]) -> None:
    """Brings the kept places of the hidden values up to date; those under the masks stay as they are."""
    hiding = [weight for weight in weights if weight.hidden is not None and not weight.restored]
    if hiding:
        # Exact at weights of 0 and 1; one launch for all weights on a GPU.
        hidden, masks = [weight.hidden_values() for weight in hiding], [weight.mask for weight in hiding]
        torch._foreach_lerp_(hidden, [weight.local for weight in hiding], masks)


def hide(weights: Sequence[MaskedWeight]) -> None:
    """Remembers the parameters' values as they are, all of them."""
    for weight in weights:
        weight.begin_hiding()
    if weights:
        torch._foreach_copy_([weight.hidden_values() for weight in weights], [weight.local for weight in weights])
    for weight in weights:
        weight.restored = False


def unhide(weights: Sequence[MaskedWeight]) -> None:
    """Puts the hidden values into the parameters, where there are any; they are right after `remember`."""
    hiding = [weight for weight in weights if weight.hidden is not None]
    if hiding:
        torch._foreach_copy_([weight.local for weight in hiding], [weight.hidden_values() for weight in hiding])
    for weight in hiding:
        weight.restored = True
