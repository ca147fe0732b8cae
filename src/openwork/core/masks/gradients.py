"""The hooks on parameters that mask their gradients in the backward pass."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from openwork.core.masks.weight import MaskedWeight
from openwork.core.sharded import is_offloaded, local, version
from openwork.kernels.masks import mask_


class GradientHook:
    """Masks the gradient of one weight as soon as it has been accumulated, for as long as its sparsifier lives."""

    def __init__(self, weight: MaskedWeight, masks_now: Callable[[], bool]) -> None:
        # Weakly: the parameter holds the hook, and must not keep the sparsifier, its optimizers or itself alive.
        self.weight = weakref.ref(weight)
        self.masks_now = weakref.WeakMethod(masks_now)

    def __call__(self, parameter: Tensor) -> None:
        """Masks the gradient."""
        weight, masks_now = self.weight(), self.masks_now()
        if parameter.grad is not None and weight is not None and masks_now is not None and masks_now():
            weight.clean_gradient = None  # a new gradient may have the id of an old one
            mask_gradients([weight])


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


def mask_gradients(weights: Sequence[MaskedWeight]) -> None:
    """Zeroes the gradients under the masks where other code has written to them since they were masked last."""
    dense = []
    for weight in weights:
        parameter = weight.parameter
        gradient = parameter.grad
        if gradient is None or weight.clean_gradient == (id(gradient), version(gradient)):
            continue
        if gradient.is_sparse:  # an Embedding's: some rows of the matrix
            gradient = gradient.coalesce()
            gradient.values().mul_(weight.mask[tuple(gradient.indices())])
            parameter.grad = gradient
        else:
            dense.append((weight, gradient))
    mask_([local(gradient) for _, gradient in dense], [weight.mask for weight, _ in dense])
    for weight, gradient in dense:
        weight.clean_gradient = (id(gradient), version(gradient))
