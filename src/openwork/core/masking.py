"""Masking: the parameters themselves hold the zeros, at all times; two optimizer hooks keep them there.

    backward   grad <- grad * mask                   so that clipping, norms and optimizer state see the sparse model
    pre-hook   hidden="trained" only: param <- param + hidden
               optimizer.step()
    post-hook  hidden="trained" only: hidden <- param * not mask
               at an update: restore the hidden values, recompute the masks, clear the optimizer state under them
               param <- param * mask

A product that is known to change nothing is left out. Where gradients and optimizer state are zero under the mask, an
elementwise optimizer keeps the zeros by itself; tensor version counters tell when somebody else wrote to either.

Where FSDP2 shards a weight, everything here is of this process's rows alone.
"""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from openwork.core.mask_update import choose, count, score
from openwork.core.selection import Weight
from openwork.core.sharded import is_offloaded, is_sharded, local, rows_like, shard_like, shards_of, version
from openwork.core.technique import MaskTechnique

# A zero weight with zero gradient and zero state stays zero under these; subclasses may do anything and do not count.
_ELEMENTWISE = frozenset(
    {
        torch.optim.SGD,
        torch.optim.Adam,
        torch.optim.AdamW,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.Adamax,
        torch.optim.Adagrad,
        torch.optim.Adadelta,
        torch.optim.RMSprop,
    }
)


class Masking:
    """The masks of one model's selected weights, and the values hidden under them."""

    def __init__(self, technique: MaskTechnique, weights: list[Weight], seed: int, *, from_zeros: bool = False) -> None:
        self.technique = technique
        self.seed = seed
        self.weights = weights
        # FSDP2 puts the whole weight into the module between its forward and backward; the shard stays the parameter.
        self._sharded: dict[int, Tensor] = {}
        parameters = self._local_parameters()
        # Kept in the weight's dtype: multiplying by bool masks is 2.6 times slower on a GPU and slower on a CPU.
        self._masks = [torch.ones_like(p, requires_grad=False) for p in parameters]
        # Full copies, of which only the places under the mask mean anything.
        self._hidden: list[Tensor] = []
        self._pruned = False  # nothing to do until a mask holds a zero
        # (id, version) of each gradient when it was last masked; version of each parameter after the last step.
        self._clean_gradients: list[tuple[int, int] | None] = [None] * len(weights)
        self._clean_parameters = [-1] * len(weights)
        self._overwritten = True
        # Where a weight may ever be kept; all of it, unless the model's own zeros are to stay.
        self._allowed = [p.detach() != 0 for p in parameters] if from_zeros else []
        self._references = [technique.reference(parameter.detach()) for parameter in self._parameters()]
        count(technique, weights, self._scores_now())
        self._hooks: list[RemovableHandle] = []
        self.follow_parameters()

    def follow_parameters(self) -> None:
        """Hooks the parameters as they are now: FSDP2 replaces them by shards, and leaves the hooks behind.

        Raises ValueError for a sharding or an allocation that cannot be masked.
        """
        newly = not self._sharded and any(is_sharded(weight.parameter) for weight in self.weights)
        whole = [int((mask == 0).count_nonzero()) for mask in self._masks] if newly else []
        for hook in self._hooks:
            hook.remove()
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._gradient_hook(index))  # type: ignore[no-untyped-call]
            for index, parameter in enumerate(self._parameters())
            if parameter.requires_grad and not is_offloaded(parameter)
        ]
        for index, weight in enumerate(self.weights):
            now, then = tuple(local(self._parameter(index)).shape), tuple(self._mask(index).shape)
            if now != then:
                raise ValueError(
                    f"{weight.name} had the shape {then} in sparsify and has {now} now; sparsify after such a change, "
                    "and shard with fully_shard, not FSDP1"
                )
        if newly and list(self.zeros().values()) != whole:
            raise ValueError(
                "the processes had different weights in sparsify, so their masks do not fit together; start all "
                "processes from one seed, or call sparsify after fully_shard"
            )
        if self._sharded:
            count(self.technique, self.weights, self._scores_now())

    def masks(self) -> dict[str, Tensor]:
        """The masks by name: bool, True = keep; sharded like the weights."""
        return self._by_name([self._mask(index).bool() for index in range(len(self.weights))])

    def zeros(self) -> dict[str, int]:
        """The number of masked weights by name, of all shards together."""
        zeros = {}
        for index, (weight, parameter) in enumerate(zip(self.weights, self._parameters(), strict=True)):
            mask = self._mask(index)
            (zeros[weight.name],) = shards_of(parameter).sum([mask.numel() - int(mask.count_nonzero())])
        return zeros

    def penalty(self) -> Tensor:
        """Zero: masks do not change the loss."""
        return self._masks[0].new_zeros(())

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Zeroes the gradients under the masks where the backward hooks could not, or somebody wrote to them since."""
        if not self._pruned or self.technique.dense_gradients:
            return
        for index, parameter in enumerate(self._parameters()):
            gradient = parameter.grad
            if gradient is not None and self._clean_gradients[index] != (id(gradient), version(gradient)):
                self._mask_gradient(index, parameter)

    @torch.no_grad()
    def before_step(self, owned: list[int]) -> None:
        """Readies the gradients and parameters at these indices for the optimizer that owns them."""
        if not self._pruned:
            return
        self.mask_gradients()
        parameters = self._parameters()
        for index in owned:
            self._clean_gradients[index] = None
        self._overwritten = any(version(parameters[i]) != self._clean_parameters[i] for i in owned)
        if self.technique.hidden == "trained":
            # Without a foreign write since the last step, the trained copies agree with the parameters that are kept.
            self._restore(owned, kept_are_newer=self._overwritten)

    @torch.no_grad()
    def after_step(self, step: int | None, owned: list[int], optimizer: torch.optim.Optimizer | None) -> bool:
        """Puts the zeros back after an optimizer's step, and returns whether under new masks.

        step: the number of completed steps, or None where more optimizers' steps are needed to complete one; owned: the
        indices of the weights that the optimizer moved.
        """
        trained = self.technique.hidden == "trained"
        everything = list(range(len(self.weights)))
        updated = step is not None and self.technique.schedule.due(step)
        if updated:
            assert step is not None
            self._restore([i for i in everything if i not in owned] if trained else everything, kept_are_newer=True)
            self._update(step)
            self._clean_gradients = [None] * len(everything)
            owned = everything
        elif self._pruned:
            if trained:
                self._hide(owned)
            if trained or self._overwritten or type(optimizer) not in _ELEMENTWISE:
                self._apply(owned)
        parameters = self._parameters()
        for index in owned:
            self._clean_parameters[index] = version(parameters[index])
        return updated

    @torch.no_grad()
    def prune(self) -> None:
        """Computes the masks that hold before training: what the schedule wants, and the zeros to start from."""
        if self.technique.schedule.due(0) or self._allowed:
            self._update(0)

    def clear_state(self, optimizer: torch.optim.Optimizer) -> None:
        """Zeroes the optimizer's state under the masks: momentum would move a weight whose gradient is zero."""
        if self.technique.hidden == "trained" or not self._pruned:
            return
        for index, parameter in enumerate(self._parameters()):
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    local(value).mul_(self._mask(index))

    def finalize(self, model: nn.Module, *, in_place: bool) -> nn.Module:
        """The model, or a copy of it, with its zeros; modules are plain already."""
        with torch.no_grad():
            self._apply()
        if not in_place:
            if self._sharded:
                raise ValueError("FSDP2 models cannot be copied; save model.state_dict(), whose weights are masked")
            return copy.deepcopy(model)
        for hook in self._hooks:
            hook.remove()
        return model

    def state_dict(self) -> dict[str, Any]:
        """The seed, and masks and hidden values by name; DTensors of the weights' sharding where they have one."""
        masks, hidden, allowed = self.masks(), self._hidden, self._allowed
        # All is there from the start: torch.distributed.checkpoint reads only what a fresh sparsifier's state has too.
        parameters = self._local_parameters()
        if not hidden and self.technique.hidden != "lost":
            hidden = [p.detach().clone() for p in parameters]
        allowed = allowed or [torch.ones_like(p, dtype=torch.bool, requires_grad=False) for p in parameters]
        return {
            "seed": self.seed,
            "masks": masks,
            "hidden": self._by_name(hidden),
            "allowed": self._by_name(allowed),
            "references": {w.name: r for w, r in zip(self.weights, self._references, strict=True) if r.numel()},
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over masks and hidden values, and masks the parameters. Raises ValueError for another model's."""
        if not {"seed", "masks", "hidden", "allowed", "references"} <= state.keys():
            raise ValueError("the state holds no masks; pass what Sparsifier.state_dict() returned")
        parameters = self._parameters()
        for kind in ("masks", "hidden", "allowed"):
            shapes = {name: tuple(tensor.shape) for name, tensor in state[kind].items()}
            expected = {w.name: tuple(p.shape) for w, p in zip(self.weights, parameters, strict=True)}
            if shapes != expected and (shapes or kind == "masks"):
                name = next(n for n in {**shapes, **expected} if shapes.get(n) != expected.get(n))
                raise ValueError(
                    f"the state's {kind} do not fit the model: {name} is {shapes.get(name, 'absent')} in the state and "
                    f"{expected.get(name, 'not selected')} here; build the sparsifier with the same model and selection"
                )
        self.seed = state["seed"]

        def own_parts(values: dict[str, Tensor]) -> list[Tensor]:
            named = zip(self.weights, parameters, strict=True) if values else ()
            return [rows_like(values[w.name].detach(), p).to(p.device, p.dtype, copy=True) for w, p in named]

        self._masks, self._hidden = own_parts(state["masks"]), own_parts(state["hidden"])
        self._allowed = [values.bool() for values in own_parts(state["allowed"])]
        for index, weight in enumerate(self.weights):
            if weight.name in state["references"]:
                self._references[index] = state["references"][weight.name].to(self._references[index])
        if all(bool(values.all()) for values in self._allowed):
            self._allowed = []
        self._pruned = not all(bool(mask.all()) for mask in self._masks)
        self._apply()
        self._clean_parameters = [-1] * len(parameters)  # the model's own state may be loaded after this

    def _parameter(self, index: int) -> Tensor:
        """The parameter as the optimizer has it: a DTensor where it is sharded."""
        parameter: Tensor = self.weights[index].parameter
        if is_sharded(parameter):
            self._sharded[index] = parameter
        return self._sharded.get(index, parameter)

    def _parameters(self) -> list[Tensor]:
        return [self._parameter(index) for index in range(len(self.weights))]

    def _local_parameters(self) -> list[Tensor]:
        return [local(parameter) for parameter in self._parameters()]

    def _by_name(self, parts: list[Tensor]) -> dict[str, Tensor]:
        """What belongs to the weights, by name and sharded like them; empty where there is nothing."""
        named = zip(self.weights, parts, self._parameters(), strict=True) if parts else ()
        return {weight.name: shard_like(part, parameter) for weight, part, parameter in named}

    def _mask(self, index: int) -> Tensor:
        """The mask as the parameter is now: `fully_shard`, `model.half()` and `.to()` may come at any time."""
        whole = self._parameter(index)
        parameter = local(whole)
        if self._sharded and self._masks[index].shape != parameter.shape:
            for values in (self._masks, self._hidden, self._allowed):
                if values:
                    values[index] = rows_like(values[index], whole)
        mask = self._masks[index]
        if mask.dtype != parameter.dtype or mask.device != parameter.device:
            mask = self._masks[index] = mask.to(parameter)
            if self._hidden:
                self._hidden[index] = self._hidden[index].to(parameter)
        return mask

    def _gradient_hook(self, index: int) -> Callable[[Tensor], None]:
        def mask_gradient(parameter: Tensor) -> None:
            if self._pruned and parameter.grad is not None and not self.technique.dense_gradients:
                self._mask_gradient(index, parameter)

        return mask_gradient

    def _mask_gradient(self, index: int, parameter: Tensor) -> None:
        gradient, mask = parameter.grad, self._mask(index)
        assert gradient is not None
        if gradient.is_sparse:  # an Embedding's: some rows of the matrix
            gradient = gradient.coalesce()
            rows = mask[tuple(gradient.indices())]
            gradient.values().mul_(rows)
            parameter.grad = gradient
        else:
            local(gradient).mul_(mask)
            self._clean_gradients[index] = (id(gradient), version(gradient))

    def _apply(self, indices: Iterable[int] | None = None) -> None:
        indices = range(len(self.weights)) if indices is None else indices
        masks = {index: self._mask(index) for index in indices}
        if masks:
            torch._foreach_mul_([local(self._parameter(index)) for index in masks], list(masks.values()))

    def _restore(self, indices: list[int], *, kept_are_newer: bool) -> None:
        """Puts the hidden values back into the parameters at these indices."""
        if not self._hidden or not indices:
            return
        parameters = self._local_parameters()
        if kept_are_newer:
            for index in indices:
                keep = self._mask(index).bool()
                self._hidden[index].copy_(torch.where(keep, parameters[index], self._hidden[index]))
        torch._foreach_copy_([parameters[i] for i in indices], [self._hidden[i] for i in indices])

    def _scores_now(self, step: int = 0) -> dict[str, Tensor]:
        values = [parameter.detach() for parameter in self._parameters()]
        masks = [self._mask(index) for index in range(len(self.weights))]
        return score(
            self.technique, self.weights, values, masks, self._allowed, self._references, seed=self.seed, step=step
        )

    def _update(self, step: int) -> None:
        """New masks from the restored parameters; hides the values under them and zeroes the parameters there."""
        masks = choose(self.technique, self.weights, self._scores_now(step), seed=self.seed, step=step)
        for index, mask in enumerate(masks):
            self._mask(index).copy_(mask)
            self._pruned = self._pruned or not bool(mask.all())
        if self.technique.hidden != "lost" and self._pruned:
            self._hide()
        self._apply()

    def _hide(self, indices: list[int] | None = None) -> None:
        parameters = self._local_parameters()
        if not self._hidden:
            self._hidden = [torch.empty_like(p, requires_grad=False) for p in parameters]
            indices = None
        indices = list(range(len(parameters))) if indices is None else indices
        if indices:
            torch._foreach_copy_([self._hidden[i] for i in indices], [parameters[i] for i in indices])
