"""Masking: the parameters themselves hold the zeros, at all times; two optimizer hooks keep them there.

    backward   at its end: grad <- grad * mask       so that clipping, norms and optimizer state see the sparse model
    pre-hook   where the technique asks for gradients at this step, they are dense until here: take them, then mask
               hidden="trained" only: param <- param + hidden
               optimizer.step()
    post-hook  hidden="trained" only: hidden <- param * not mask
               at an update: choose masks by the full values, hide these, clear the optimizer state under the masks
               param <- param * mask

A product that would change nothing is left out. Where gradients and optimizer state are zero under the mask, an
elementwise optimizer keeps the zeros without help; tensor version counters show when other code wrote to either.

Where FSDP2 shards a weight, everything here concerns only the rows of this process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from openwork.core.following import capturing
from openwork.core.masks import state
from openwork.core.masks.beginning import first_masks
from openwork.core.masks.check import checked_exchange
from openwork.core.masks.counting import count_each
from openwork.core.masks.finalized import masked_copy, zero_for_good
from openwork.core.masks.gradients import mask_gradients, renew_hooks
from openwork.core.masks.graphs import check_replay, checked_capture
from openwork.core.masks.listening import Listening, check_calibration
from openwork.core.masks.optimizer_state import check_eps, clear_state, keeps_zeros, moved_outside
from openwork.core.masks.remarks import check_first_values, remarks, warn_emptied
from openwork.core.masks.update import Chosen, choose, preview
from openwork.core.masks.weight import (
    MaskedWeight,
    apply_masks,
    change_masks,
    check_parameters,
    count_masked,
    hide_and_mask,
    restore,
)
from openwork.core.mechanism import Calibrate, Mechanism, whole_number
from openwork.core.schedules import Schedule, unfinished
from openwork.core.selection import Weight
from openwork.core.sharded import shard_like

if TYPE_CHECKING:
    from openwork.core.masks.stacked import StackedMasks
    from openwork.core.masks.technique import MaskTechnique

_SURELY = 16
"""Every so many steps masks are applied in any case, since no counter shows what other code writes through .data."""


class Masking(Mechanism):
    """The masks of one model's selected weights.

    Args:
        technique: The technique.
        weights: The selected weights, tied ones once.
        seed: The seed of ties and random scores.
        keep_zeros: Whether the zeros that the weights hold stay zero.
    """

    def __init__(self, technique: MaskTechnique, weights: list[Weight], *, seed: int, keep_zeros: bool) -> None:
        self.technique = technique
        self.seed = seed
        self.weights = [MaskedWeight(weight, keep_zeros=keep_zeros) for weight in weights]
        self.pruned = False
        """Whether a mask holds a zero; there is nothing to do until one does."""
        self.begun = False  # whether a step was made, or the state of such a training loaded
        self._overwritten = True
        self._looked_for_wrapper = False
        self._hooks: list[RemovableHandle] = []
        # Optimizers whose state came from elsewhere; cleared at their next step, so that parts may load in any order.
        self.unmasked_state: set[torch.optim.Optimizer] = set()
        self._optimizers: list[torch.optim.Optimizer] = []
        self.listening = Listening(technique, self.weights)

    @property
    def schedule(self) -> Schedule:
        """That of the sparsity, or of the threshold."""
        return self.technique.schedule

    def reached(self, steps: int) -> float | None:
        """The value of the last mask update; None if it is the schedule's last value, or no update is to come."""
        return unfinished(self.technique.schedule, steps)

    @property
    def needs_optimizer(self) -> str:
        """Why gradients or hidden values need an attached optimizer's step; "" where they do not."""
        if self.technique.hidden == "trained":
            return "hidden='trained' moves masked weights inside optimizer.step()"
        if self.technique.evidence.trains:
            return f"{type(self.technique).__name__} reads gradients around optimizer.step()"
        return ""

    @property
    def closure_once(self) -> bool:
        """With hidden="trained" a closure would see the hidden values."""
        return self.technique.hidden == "trained"

    @torch.no_grad()
    def start(self, model: nn.Module, calibrate: Calibrate | None) -> None:
        """Gathers evidence, and puts the first masks in force: the schedule's, and the zeros that stay."""
        technique = self.technique
        check_calibration(technique, self.weights, calibrate)
        self.listening.begin()
        preview(technique, self.weights, seed=self.seed)
        self.listening.expect(1)
        first_masks(self, model, calibrate)
        if not technique.schedule.due(0):
            self.pruned = any(count_masked([weight for weight in self.weights if weight.allowed is not None]))
        self._hooks = renew_hooks(self._hooks, self.weights, self._masks_now, self._mask_rest)

    def check_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Raises ValueError for an eps that is 0 where the optimizer divides by it."""
        check_eps(optimizer)

    def attached(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Hooks the parameters as they are now: FSDP2 replaces them by shards that have no hooks."""
        check_parameters(self.weights)
        if any(weight.sharded for weight in self.weights):
            preview(self.technique, self.weights, seed=self.seed)
        self._hooks = renew_hooks(self._hooks, self.weights, self._masks_now, self._mask_rest)
        self._optimizers = list(optimizers)
        self.unmasked_state = set(optimizers)

    def detached(self) -> None:
        """Forgets the optimizers."""
        self._optimizers = []
        self.unmasked_state.clear()

    def state_loaded(self, optimizer: torch.optim.Optimizer) -> None:
        """Masks the optimizer's state at its next step, so that parts may load in any order."""
        self.unmasked_state.add(optimizer)

    @torch.no_grad()
    def before_step(self, owned: list[int], optimizer: torch.optim.Optimizer, *, counts: bool) -> None:
        """Takes the gradients that are evidence, masks them, and readies the parameters for the optimizer."""
        captured = checked_capture(self, optimizer)
        check_first_values(self)
        if optimizer in self.unmasked_state:
            self._clear_state(optimizer)
            self.unmasked_state.remove(optimizer)
        self.listening.take(owned, optimizer, counts=counts)
        if not self.pruned:
            return
        weights = [self.weights[index] for index in owned]
        self._mask_gradients(weights)
        for weight in weights:
            weight.clean_gradient = None
        self._overwritten = any(weight.overwritten for weight in weights)
        if self._overwritten and not self._looked_for_wrapper and not captured:
            self._looked_for_wrapper = moved_outside(weights, optimizer)
        if self.technique.hidden == "trained":
            restore(weights, overwritten=self._overwritten)

    @torch.no_grad()
    def after_step(self, step: int | None, owned: list[int], optimizer: torch.optim.Optimizer | None) -> None:
        """Puts the zeros back, under new masks where they are due."""
        weights, chosen = [self.weights[index] for index in owned], None
        self.listening.stepped(owned)
        try:
            if self._replayed(optimizer):
                check_replay(self, step)
            if step is not None and self.technique.schedule.due(step):
                chosen = self._choose(step)
        finally:  # where the next masks cannot be computed, those that hold stay in force
            if chosen is not None:
                self.take(chosen, restarts=step is not None and self.technique.restarts(step))
                weights = self.weights
            elif self.pruned:
                self._keep(weights, optimizer, surely=not capturing() if step is None else step % _SURELY == 0)
            for weight in weights:
                weight.write_clean()
            if step is not None:
                self.listening.expect(step + 1)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Puts the masks in force that are due after ``step`` steps, for a loop that knows the weights' zeros."""
        self.take(self._choose(step))

    def take(self, chosen: Sequence[Chosen], *, restarts: bool = False) -> None:
        """Puts new masks in force: hides the values under them, zeroes the parameters and optimizer state there."""
        if not self.pruned and any(one.keep < w.parameter.numel() for w, one in zip(self.weights, chosen, strict=True)):
            self.pruned = True
            self.unmasked_state.update(self._optimizers)  # a CUDA graph holds no first step under masks
        remembers = self.technique.hidden != "lost" and self.pruned
        change_masks(self.weights, chosen, remembers=remembers)  # right, since `choose` remembers
        self.taken([one.keep for one in chosen])
        for optimizer in self._optimizers:
            self._clear_state(optimizer, whole=restarts)

    def taken(self, keep: Sequence[int]) -> None:
        """Takes note of masks that are in force now, and of how many weights each keeps."""
        for weight in self.weights:
            weight.restored, weight.clean_gradient = False, None
            weight.forget()
        warn_emptied(self.weights, keep)

    def count_to(self, steps: int) -> None:
        """Expects the next gradients, and trusts no parameter to be as the last step left it."""
        self.begun = True
        self.listening.expect(steps + 1)
        for weight in self.weights:
            weight.clean_gradient, weight.clean_parameter = None, -1

    @classmethod
    def stack(cls, mechanisms: Sequence[Masking], parameters: Mapping[str, Tensor]) -> StackedMasks:
        """The masks of many models as one; raises ValueError for techniques of several classes, or sharded weights."""
        from openwork.core.masks.stacked import StackedMasks  # which knows this class

        return StackedMasks(mechanisms, parameters)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Zeroes the gradients under the masks where the backward hooks could not, or other code wrote to them since.

        Gradients that are still to be taken as evidence stay dense.
        """
        self._mask_rest()

    def masks(self) -> dict[str, Tensor]:
        """The masks by name: bool, True = keep; sharded like the weights."""
        return {weight.name: shard_like(weight.mask.clone(), weight.parameter) for weight in self.weights}

    def zeros(self) -> dict[str, int]:
        """The number of zeros by name, of all shards together: masked weights, and others that happen to be 0."""
        counts = count_each((w.local.detach() == 0 for w in self.weights), [w.parameter for w in self.weights])
        return {weight.name: number for weight, number in zip(self.weights, counts, strict=True)}

    def remarks(self) -> list[str]:
        """Which layers are empty, and which weights are not zero under their masks."""
        return remarks([weight for weight in self.weights if weight.parameter.numel()])

    def expected_nonzero(self) -> dict[str, float]:
        """The number of weights that are not zero, by name."""
        return self.counts()[1]

    def counts(self) -> tuple[dict[str, int], dict[str, float]]:
        """The numbers of weights that are zero and that are not, by name."""
        zeros = self.zeros()
        return zeros, {weight.name: float(weight.parameter.numel() - zeros[weight.name]) for weight in self.weights}

    def penalty(self) -> Tensor:
        """Zero: masks do not change the loss."""
        return self.weights[0].zero()

    def finalize(self, model: nn.Module, *, in_place: bool) -> nn.Module:
        """The model, or a copy of it, with its zeros; its modules have been plain all the time.

        In place, the mechanism lets masks, hidden values and evidence go.
        """
        if not in_place:
            return masked_copy(model, self.weights)
        zero_for_good(self.weights)
        for hook in self._hooks:
            hook.remove()
        self.weights.clear()
        return model

    def state_dict(self) -> dict[str, Any]:
        """The seed, and masks, hidden values and evidence by name."""
        return {"seed": self.seed, **state.collect(self.weights, hidden=self.technique.hidden != "lost")}

    @torch.no_grad()
    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Takes over masks, hidden values and evidence, and masks the parameters."""
        state.check(saved, self.weights, hidden=self.technique.hidden != "lost")
        self.seed = whole_number(saved, "seed")
        state.restore(saved, self.weights)
        self.pruned = any(count_masked(self.weights))
        apply_masks(self.weights)
        self.unmasked_state.update(self._optimizers)
        self.count_to(saved["steps"])  # the model's own state may be loaded after this

    def _choose(self, step: int) -> list[Chosen]:
        exchange = checked_exchange(self.technique, step) if self.technique.regrows and self.pruned else None
        return choose(self.technique, self.weights, seed=self.seed, step=step, exchange=exchange)

    def _masks_now(self) -> bool:
        if not self.pruned or self.listening.now or self.technique.dense_gradients:
            return False
        # A graph that holds the backward pass alone is replayed also where gradients are evidence.
        return not self.technique.evidence.trains or not capturing()

    def _mask_rest(self) -> None:
        awaited = self.listening.awaited()
        self._mask_gradients([w for index, w in enumerate(self.weights) if index not in awaited])

    def _mask_gradients(self, weights: Sequence[MaskedWeight]) -> None:
        if self.pruned and not self.technique.dense_gradients:
            mask_gradients(weights)

    def _keep(self, weights: Sequence[MaskedWeight], optimizer: torch.optim.Optimizer | None, *, surely: bool) -> None:
        """Puts the zeros back, as far as the optimizer or other code may have moved them."""
        replayed = self._replayed(optimizer)
        if replayed:  # the graph has hidden values and put zeros back, but it does not see what other code writes
            self._overwritten = any(weight.overwritten for weight in weights)
        if self.technique.hidden == "trained" and not replayed:
            hide_and_mask(weights)
        elif surely or self._overwritten or not (replayed or keeps_zeros(optimizer)):
            apply_masks(weights)
        if optimizer is not None and hasattr(optimizer, "eval"):
            self._clear_state(optimizer)  # eval() swaps in copies that its step made before weights had their zeros

    def _replayed(self, optimizer: torch.optim.Optimizer | None) -> bool:
        """Whether the step was that of a CUDA graph: a step without an optimizer, though some are attached."""
        return optimizer is None and bool(self._optimizers)

    def _clear_state(self, optimizer: torch.optim.Optimizer, *, whole: bool = False) -> None:
        if self.technique.hidden != "trained" and self.pruned:
            clear_state(optimizer, self.weights, whole=whole)
