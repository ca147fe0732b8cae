"""Masks applied to many tensors at once: on a GPU by one launch for many of them, and without a copy of any mask.

A mask is bool, one byte a number. torch's own products take three times as long with it as with one of the tensor's
dtype, since they convert it.
"""

from collections.abc import Callable, Sequence
from itertools import compress

import numpy as np
import torch
from torch import Tensor, nn

from openwork.kernels.paths import Path, in_one_piece, triton_or_plain

SMALL = 2**16
"""A single tensor of fewer numbers is left to torch, whose launches cost the host less."""

# On a core of an AMD EPYC, with buffers that fit the first cache, numpy takes 0.8 of the time of a product with
# a mask in float32, torch in pieces 1.3 and in one 1.6; but torch uses all cores.
_BUFFER = 1024
_PIECE = 2**17
_TINY = 2**14
_NUMPYS = (torch.float32, torch.float64)
_TYPES = (Tensor, nn.Parameter)

_Lists = tuple[Sequence[Tensor], ...]


def path(device: torch.device, dtype: torch.dtype) -> Path:
    """Which way tensors of the dtype go; those that do not lie in one piece, each like its mask, take the plain one."""
    return triton_or_plain(device, dtype)


def mask_(tensors: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """Multiplies tensors by their masks, in place: what is masked becomes 0 with its sign, and NaN stays NaN.

    Args:
        tensors: Of any shapes, dtypes and devices.
        masks: Bool, each of its tensor's shape and on its device.
    """
    _run(_mask, mask_plain, tensors, masks)


def hide_(values: Sequence[Tensor], hidden: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """Copies the values to where they are hidden, and multiplies them by their masks, in place.

    Args:
        values: Of any shapes, dtypes and devices.
        hidden: Their copies.
        masks: Bool, each of its tensor's shape and on its device.
    """
    _run(_hide, hide_plain, values, hidden, masks)


def remember_(hidden: Sequence[Tensor], values: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """Brings the hidden copies up to date where their masks are True; elsewhere they stay as they are.

    Args:
        hidden: Of any shapes, dtypes and devices.
        values: The values.
        masks: Bool, each of its tensor's shape and on its device.
    """
    _run(_remember, remember_plain, hidden, values, masks)


def restore_(values: Sequence[Tensor], hidden: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """Puts hidden values back where their masks are False; elsewhere the values stay as they are.

    Args:
        values: Of any shapes, dtypes and devices.
        hidden: Of the same.
        masks: Bool, each of its tensor's shape and on its device.
    """
    _run(_restore, restore_plain, values, hidden, masks)


def mask_plain(tensors: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """What `mask_` does, by torch's operations."""
    followed = torch.compiler.is_compiling() or torch.is_grad_enabled()
    tiny = [not followed and type(tensor) in _TYPES and tensor.numel() < _TINY for tensor in tensors]
    if any(tiny):  # torch's loop over them takes half the time of Python's
        factors = [mask.view(torch.uint8) for mask in compress(masks, tiny)]
        torch._foreach_mul_(list(compress(tensors, tiny)), factors)
    for tensor, mask, done in zip(tensors, masks, tiny, strict=True):
        if not done:
            _multiply(tensor, mask)


def hide_plain(values: Sequence[Tensor], hidden: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """What `hide_` does, by torch's operations."""
    if hidden:
        torch._foreach_copy_(list(hidden), list(values))
    mask_plain(values, masks)


def remember_plain(hidden: Sequence[Tensor], values: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """What `remember_` does, by torch's operations."""
    with torch.no_grad():  # `out` takes nothing with a gradient
        for old, value, mask in zip(hidden, values, masks, strict=True):
            torch.where(mask, value, old, out=old)


def restore_plain(values: Sequence[Tensor], hidden: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """What `restore_` does, by torch's operations."""
    with torch.no_grad():
        for value, old, mask in zip(values, hidden, masks, strict=True):
            torch.where(mask, value, old, out=value)


# The ops that follow are the kernels alone, for tensors of one dtype on one device that lie in one piece.
@torch.library.custom_op("openwork::mask_", mutates_args=("tensors",))
def _mask(tensors: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    from openwork.kernels.triton import masks as kernels

    kernels.mask_(tensors, masks)


@torch.library.custom_op("openwork::hide_", mutates_args=("values", "hidden"))
def _hide(values: Sequence[Tensor], hidden: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    from openwork.kernels.triton import masks as kernels

    kernels.hide_(values, hidden, masks)


@torch.library.custom_op("openwork::remember_", mutates_args=("hidden",))
def _remember(hidden: Sequence[Tensor], values: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    from openwork.kernels.triton import masks as kernels

    kernels.remember_(hidden, values, masks)


@torch.library.custom_op("openwork::restore_", mutates_args=("values",))
def _restore(values: Sequence[Tensor], hidden: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    from openwork.kernels.triton import masks as kernels

    kernels.restore_(values, hidden, masks)


def _multiply(tensor: Tensor, mask: Tensor) -> None:
    """Masks a tensor by torch's or numpy's product, whichever is faster."""
    followed = torch.compiler.is_compiling() or (tensor.requires_grad and torch.is_grad_enabled())
    if followed or tensor.numel() < _TINY or tensor.device.type != "cpu" or not _in_order(tensor, mask):
        tensor.mul_(mask.view(torch.uint8))  # in less than half the time of bool
    elif torch.get_num_threads() == 1 and type(tensor) in _TYPES and tensor.dtype in _NUMPYS:
        values, size = tensor.detach().numpy(), np.setbufsize(_BUFFER)
        try:
            with np.errstate(invalid="ignore"):  # infinity times 0
                np.multiply(values, mask.numpy(), out=values)
        finally:
            np.setbufsize(size)
        torch.autograd.graph.increment_version(tensor)
    else:
        # torch makes a copy of the mask in the tensor's dtype: of a piece at a time it stays in the cache.
        tensor, mask, size = tensor.view(-1), mask.view(torch.uint8).view(-1), torch.get_num_threads() * _PIECE
        for first in range(0, len(tensor), size):
            tensor[first : first + size].mul_(mask[first : first + size])


def _in_order(*tensors: Tensor) -> bool:
    return all(tensor.is_contiguous() for tensor in tensors)


def _run(op: Callable[..., None], plain: Callable[..., None], *lists: Sequence[Tensor]) -> None:
    """Calls the op for what its kernel takes, once for each dtype and device, and the plain twin for all the rest."""
    if _on_cpu(lists[0]):  # soon said, for the hook of each parameter asks
        plain(*lists)
        return
    fused: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    rest, known = [], {}
    for place, (first, *others) in enumerate(zip(*lists, strict=True)):
        kind = first.device, first.dtype
        if kind not in known:
            known[kind] = path(*kind).name == "Triton"
        if known[kind] and _fits(first, others):
            fused.setdefault(kind, []).append(place)
        else:
            rest.append(place)
    for places in fused.values():
        if len(places) == 1 and lists[0][places[0]].numel() < SMALL:
            rest += places
        else:
            op(*_of(lists, places))
    if rest:
        plain(*_of(lists, rest))


def _on_cpu(tensors: Sequence[Tensor]) -> bool:
    """Whether the first is on a CPU, and so usually all."""
    return not tensors or tensors[0].device.type == "cpu"


def _fits(first: Tensor, others: Sequence[Tensor]) -> bool:
    """Whether the kernel takes a tensor together with its mask, the last of the others."""
    if first.requires_grad and torch.is_grad_enabled():
        return False  # a product that autograd is to follow, of a gradient that was made with create_graph=True
    if not first.numel() or any(other.dtype != first.dtype for other in others[:-1]):
        return False
    return in_one_piece(first, *others)


def _of(lists: _Lists, places: Sequence[int]) -> list[list[Tensor]]:
    return [[tensors[place] for place in places] for tensors in lists]
