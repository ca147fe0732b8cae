"""The hooks on parameters that mask their gradients in the backward pass."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

from torch import Tensor
from torch.autograd import Variable
from torch.utils.hooks import RemovableHandle

from openwork.core.following import capturing
from openwork.core.masks.weight import MaskedWeight
from openwork.core.sharded import is_offloaded, local, version
from openwork.kernels.masks import mask_


class GradientHook:
    """Masks the gradient of one weight as soon as it has been accumulated, for as long as its sparsifier lives.

    Into a CUDA graph, where small launches one after the other are what takes time, go a few launches for all gradients
    at the end of the backward pass.

    Args:
        weight: The weight.
        masks_now: A method that says whether gradients are masked at this moment.
        mask_all: A method that masks those that are not masked yet.
    """

    def __init__(self, weight: MaskedWeight, masks_now: Callable[[], bool], mask_all: Callable[[], None]) -> None:
        # Weakly: the parameter holds the hook, and must not keep the sparsifier, its optimizers or itself alive.
        self.weight = weakref.ref(weight)
        self.masks_now = weakref.WeakMethod(masks_now)
        self.mask_all = weakref.WeakMethod(mask_all)

    def __call__(self, parameter: Tensor) -> None:
        """Masks the gradient."""
        weight, masks_now, mask_all = self.weight(), self.masks_now(), self.mask_all()
        gradient = parameter.grad
        if gradient is None or weight is None or masks_now is None or mask_all is None or not masks_now():
            return
        if capturing():
            # Each hook asks, since a backward pass that fails calls none; the first call masks all.
            Variable._execution_engine.queue_callback(mask_all)
        else:
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
        mask_all: As of `GradientHook`.
    """
    for handle in former:
        handle.remove()
    handles = [add_hook(GradientHook(weight, masks_now, mask_all), weight.parameter) for weight in weights]
    return [handle for handle in handles if handle]


def mask_gradients(weights: Sequence[MaskedWeight]) -> None:
    """Zeroes the gradients under the masks where other code has written to them since they were masked last."""
    pairs = [(weight, weight.parameter.grad) for weight in weights]
    _mask([(w, g) for w, g in pairs if g is not None and w.clean_gradient != (id(g), version(g))])


def _mask(pairs: Sequence[tuple[MaskedWeight, Tensor]]) -> None:
    """Zeroes these gradients of these weights under their masks."""
    dense = [pair for pair in pairs if not pair[1].is_sparse]
    if not pairs:
        return
    mask_([local(gradient) for _, gradient in dense], [weight.mask for weight, _ in dense])
    for weight, gradient in dense:
        weight.clean_gradient = (id(gradient), version(gradient))
    for weight, gradient in pairs:
        if gradient.is_sparse:  # an Embedding's: some rows of the matrix
            rows = gradient.coalesce()
            rows.values().mul_(weight.mask[tuple(rows.indices())])
            weight.parameter.grad = rows
