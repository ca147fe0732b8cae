"""The hooks on parameters that mask their gradients in the backward pass."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from openwork.core.backward import after_backward
from openwork.core.masks.weight import MaskedWeight
from openwork.core.sharded import is_offloaded, local, version
from openwork.kernels.masks import mask_


class AtTheEnd:
    """Calls a method at the end of a backward pass, once for all hooks that ask for it in that pass.

    Args:
        run: The method, of an object that may cease to exist; it is called in the hooks' grad mode.
    """

    def __init__(self, run: Callable[[], None]) -> None:
        self._run = weakref.WeakMethod(run)
        self._asked_in = -1

    def asked(self) -> bool:
        """Whether the method will be called; not outside of a backward pass, and not in compiled code."""
        if torch.compiler.is_compiling() or (task := torch._C._current_graph_task_id()) == -1:
            return False
        if task != self._asked_in:
            self._asked_in, enabled = task, torch.is_grad_enabled()
            after_backward(lambda: self._call(enabled))
        return True

    def _call(self, enabled: bool) -> None:
        run = self._run()
        if run is not None:
            with torch.set_grad_enabled(enabled):
                run()


class GradientHook:
    """Has the gradient of one weight masked at the end of the backward pass, for as long as its sparsifier lives.

    All gradients are masked together: a launch for each of them would keep the host of a GPU busy longer than the GPU.

    Args:
        weight: The weight.
        masks_now: A method that says whether gradients are masked at this moment.
        at_the_end: Masks all gradients that are not masked yet.
    """

    def __init__(self, weight: MaskedWeight, masks_now: Callable[[], bool], at_the_end: AtTheEnd) -> None:
        # Weakly: the parameter holds the hook, and must not keep the sparsifier, its optimizers or itself alive.
        self.weight = weakref.ref(weight)
        self.masks_now = weakref.WeakMethod(masks_now)
        self.at_the_end = at_the_end

    def __call__(self, parameter: Tensor) -> None:
        """Masks the gradient at once where there is no end to wait for."""
        weight, masks_now = self.weight(), self.masks_now()
        gradient = parameter.grad
        if gradient is None or weight is None or masks_now is None or not masks_now():
            return
        if not self.at_the_end.asked():
            _mask([(weight, gradient)])


def add_hook(hook: GradientHook, parameter: Tensor) -> RemovableHandle | None:
    """Adds the hook to the parameter, also to a frozen one, which may be trained later.

    Removes those of sparsifiers that no longer exist.

    Returns:
        The hook's handle. None, without a hook, where FSDP2 may still be moving the gradient to the CPU when the hook
        would run, and for a frozen parameter that cannot have gradients.
    """
    if is_offloaded(parameter):
        return None
    frozen = not parameter.requires_grad
    if frozen and not (parameter.is_floating_point() or parameter.is_complex()):
        return None
    others = getattr(parameter, "_post_accumulate_grad_hooks", None) or {}
    for key, other in list(others.items()):
        if isinstance(other, GradientHook) and other.weight() is None:
            del others[key]
    parameter.requires_grad_(True)
    try:
        handle: RemovableHandle = parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
    finally:
        parameter.requires_grad_(not frozen)
    return handle


def renew_hooks(
    former: Sequence[RemovableHandle],
    weights: Sequence[MaskedWeight],
    masks_now: Callable[[], bool],
    mask_all: Callable[[], None],
) -> list[RemovableHandle]:
    """Removes the former hooks, and hooks the parameters as they are now.

    Args:
        former: The handles of the former hooks.
        weights: The weights.
        masks_now: As of `GradientHook`.
        mask_all: A method that masks the gradients that are not masked yet.
    """
    for handle in former:
        handle.remove()
    at_the_end = AtTheEnd(mask_all)
    handles = [add_hook(GradientHook(weight, masks_now, at_the_end), weight.parameter) for weight in weights]
    return [handle for handle in handles if handle]


def mask_gradients(weights: Sequence[MaskedWeight]) -> None:
    """Zeroes the gradients under the masks where other code has written to them since they were masked last."""
    pairs = [(weight, weight.parameter.grad) for weight in weights]
    _mask([(weight, gradient) for weight, gradient in pairs if gradient is not None and not weight.is_clean(gradient)])


def _mask(pairs: Sequence[tuple[MaskedWeight, Tensor]]) -> None:
    """Zeroes these gradients of these weights under their masks."""
    dense = [pair for pair in pairs if not pair[1].is_sparse]
    if not pairs:
        return
    mask_([local(gradient) for _, gradient in dense], [weight.mask for weight, _ in dense])
    for weight, gradient in dense:
        weight.clean_gradient = (weakref.ref(gradient), version(gradient))
    for weight, gradient in pairs:
        if gradient.is_sparse:  # an Embedding's: some rows of the matrix
            rows = gradient.coalesce()
            rows.values().mul_(weight.mask[tuple(rows.indices())])
            weight.parameter.grad = rows
