"""Masking: the parameters themselves hold the zeros, at all times; two optimizer hooks keep them there.

    backward   grad <- grad * mask                   so that clipping, norms and optimizer state see the sparse model
    pre-hook   hidden="trained" only: param <- param + hidden
               optimizer.step()
    post-hook  hidden="trained" only: hidden <- param * not mask
               at an update: restore the hidden values, recompute the masks, clear the optimizer state under them
               param <- param * mask

A product that is known to change nothing is left out. Where gradients and optimizer state are zero under the mask, an
elementwise optimizer keeps the zeros by itself; tensor version counters tell when somebody else wrote to either.
"""

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from openwork.core.patterns import check_count, check_scores, check_whole_groups, output_first
from openwork.core.selection import Weight
from openwork.core.technique import MaskTechnique
from openwork.core.threshold import seeded_generator

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
        parameters = self._parameters()
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
        final = technique.schedule.final
        groups = self._groups()
        check_whole_groups(technique.allocation(self._scores_now(), final, final, groups), groups, final)
        self._hooks: list[RemovableHandle] = [
            parameter.register_post_accumulate_grad_hook(self._gradient_hook(index))  # type: ignore[no-untyped-call]
            for index, parameter in enumerate(parameters)
        ]

    def masks(self) -> dict[str, Tensor]:
        """The masks by name: bool, True = keep."""
        return {w.name: mask.bool() for w, mask in zip(self.weights, self._masks, strict=True)}

    def zeros(self) -> dict[str, int]:
        """The number of masked weights by name."""
        return {
            w.name: mask.numel() - int(mask.count_nonzero()) for w, mask in zip(self.weights, self._masks, strict=True)
        }

    def penalty(self) -> Tensor:
        """Zero: masks do not change the loss."""
        return self._masks[0].new_zeros(())

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Zeroes the gradients under the masks where the backward hooks could not, or somebody wrote to them since."""
        if not self._pruned:
            return
        for index, parameter in enumerate(self._parameters()):
            gradient = parameter.grad
            if gradient is not None and self._clean_gradients[index] != (id(gradient), gradient._version):
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
        self._overwritten = any(parameters[i]._version != self._clean_parameters[i] for i in owned)
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
            self._clean_parameters[index] = parameters[index]._version
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
                    value.mul_(self._mask(index))

    def finalize(self, model: nn.Module, *, in_place: bool) -> nn.Module:
        """The model, or a copy of it, with its zeros; modules are plain already."""
        with torch.no_grad():
            self._apply()
        if not in_place:
            return copy.deepcopy(model)
        for hook in self._hooks:
            hook.remove()
        return model

    def state_dict(self) -> dict[str, Any]:
        """The seed, and masks and hidden values by name."""
        names = [w.name for w in self.weights]
        hidden = dict(zip(names, self._hidden, strict=True)) if self._hidden else {}
        allowed = dict(zip(names, self._allowed, strict=True)) if self._allowed else {}
        return {"seed": self.seed, "masks": self.masks(), "hidden": hidden, "allowed": allowed}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over masks and hidden values, and masks the parameters. Raises ValueError for another model's."""
        if not {"seed", "masks", "hidden", "allowed"} <= state.keys():
            raise ValueError("the state holds no masks; pass what Sparsifier.state_dict() returned")
        names = [w.name for w in self.weights]
        for kind in ("masks", "hidden", "allowed"):
            shapes = {name: tuple(tensor.shape) for name, tensor in state[kind].items()}
            expected = {w.name: tuple(w.parameter.shape) for w in self.weights}
            if shapes != expected and (shapes or kind == "masks"):
                name = next(n for n in {**shapes, **expected} if shapes.get(n) != expected.get(n))
                raise ValueError(
                    f"the state's {kind} do not fit the model: {name} is {shapes.get(name, 'absent')} in the state and "
                    f"{expected.get(name, 'not selected')} here; build the sparsifier with the same model and selection"
                )
        self.seed = state["seed"]
        for index, name in enumerate(names):
            self._masks[index] = state["masks"][name].to(self._parameters()[index])
        self._hidden = [
            state["hidden"][w.name].detach().to(w.parameter).clone() for w in self.weights if state["hidden"]
        ]
        self._allowed = [state["allowed"][w.name].to(w.parameter.device) for w in self.weights if state["allowed"]]
        self._pruned = not all(bool(mask.all()) for mask in state["masks"].values())
        self._apply()
        self._clean_parameters = [-1] * len(names)  # the model's own state may be loaded after this

    def _parameters(self) -> list[Tensor]:
        return [weight.parameter for weight in self.weights]

    def _mask(self, index: int) -> Tensor:
        """The mask as the parameter's dtype and device are now: `model.half()` and `.to()` may come at any time."""
        parameter, mask = self.weights[index].parameter, self._masks[index]
        if mask.dtype != parameter.dtype or mask.device != parameter.device:
            mask = self._masks[index] = mask.to(parameter)
            if self._hidden:
                self._hidden[index] = self._hidden[index].to(parameter)
        return mask

    def _gradient_hook(self, index: int) -> Callable[[Tensor], None]:
        def mask_gradient(parameter: Tensor) -> None:
            if self._pruned and parameter.grad is not None:
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
            gradient.mul_(mask)
            self._clean_gradients[index] = (id(gradient), gradient._version)

    def _apply(self, indices: Iterable[int] | None = None) -> None:
        indices = range(len(self.weights)) if indices is None else indices
        masks = {index: self._mask(index) for index in indices}
        if masks:
            torch._foreach_mul_([self.weights[index].parameter for index in masks], list(masks.values()))

    def _restore(self, indices: list[int], *, kept_are_newer: bool) -> None:
        """Puts the hidden values back into the parameters at these indices."""
        if not self._hidden or not indices:
            return
        parameters = self._parameters()
        if kept_are_newer:
            for index in indices:
                keep = self._mask(index).bool()
                self._hidden[index].copy_(torch.where(keep, parameters[index], self._hidden[index]))
        torch._foreach_copy_([parameters[i] for i in indices], [self._hidden[i] for i in indices])

    def _groups(self) -> dict[str, int]:
        shapes = {w.name: output_first(w.parameter, w.sites[0].module).shape for w in self.weights}
        return {name: self.technique.pattern.group(shape) for name, shape in shapes.items()}

    def _scores_now(self, step: int = 0) -> dict[str, Tensor]:
        """What allocation and pattern rank by, outputs first."""
        scores = {}
        for index, weight in enumerate(self.weights):
            generator = seeded_generator(self.seed, step, weight.name)
            values = weight.parameter.detach()
            score = self.technique.scores(values, self._mask(index).bool(), generator)
            if self._allowed:
                score = torch.where(self._allowed[index].to(score.device), score, -math.inf)
            scores[weight.name] = self.technique.pattern.share(output_first(score, weight.sites[0].module))
        return scores

    def _update(self, step: int) -> None:
        """New masks from the restored parameters; hides the values under them and zeroes the parameters there."""
        schedule = self.technique.schedule
        scores = self._scores_now(step)
        for name, score in scores.items():
            check_scores(name, score)
        groups = self._groups()
        keep = self.technique.allocation(scores, schedule(step), schedule.final, groups)
        for index, weight in enumerate(self.weights):
            # Ties have a generator of their own: the draw does not depend on how many numbers the scores used up.
            ties = seeded_generator(self.seed, step, f"{weight.name}/ties")
            score, wanted = scores[weight.name], keep[weight.name]
            mask = self.technique.pattern.mask(score, wanted, ties)
            kept = int(mask.count_nonzero())
            check_count(weight.name, score, kept, wanted, groups[weight.name])
            self._mask(index).copy_(output_first(mask, weight.sites[0].module))
            self._pruned = self._pruned or kept < mask.numel()
        if self.technique.hidden != "lost" and self._pruned:
            self._hide()
        self._apply()

    def _hide(self, indices: list[int] | None = None) -> None:
        parameters = self._parameters()
        if not self._hidden:
            self._hidden = [torch.empty_like(p, requires_grad=False) for p in parameters]
            indices = None
        indices = list(range(len(parameters))) if indices is None else indices
        if indices:
            torch._foreach_copy_([self._hidden[i] for i in indices], [parameters[i] for i in indices])
