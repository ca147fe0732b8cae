"""Masks applied to many tensors at once: on a GPU by one launch for many of them, and without a copy of any mask.

A mask is bool, one byte a number. torch's own products take three times as long with it on a GPU, where they convert
each number, and on a CPU, unless they read the bytes as whole numbers.
"""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from openwork.kernels.paths import Path, triton_or_plain

SMALL = 2**16
"""A single tensor of fewer numbers is left to torch, whose launches cost the host less."""

_FORMATS = (torch.contiguous_format, torch.channels_last, torch.channels_last_3d)
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


def mask_plain(tensors: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """What `mask_` does, by torch's operations."""
    for tensor, mask in zip(tensors, masks, strict=True):
        tensor.mul_(mask.view(torch.uint8))


def hide_plain(values: Sequence[Tensor], hidden: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """What `hide_` does, by torch's operations."""
    torch._foreach_copy_(list(hidden), list(values))
    mask_plain(values, masks)


def remember_plain(hidden: Sequence[Tensor], values: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """What `remember_` does, by torch's operations."""
    for old, value, mask in zip(hidden, values, masks, strict=True):
        torch.where(mask, value.detach(), old, out=old)


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


def _run(op: Callable[..., None], plain: Callable[..., None], *lists: Sequence[Tensor]) -> None:
    """Calls the op for what its kernel takes, once for each dtype and device, and the plain twin for all the rest."""
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    rest = []
    for place, tensors in enumerate(zip(*lists, strict=True)):
        if not tensors[0].numel():
            continue
        if _fits(tensors):
            groups.setdefault((tensors[0].device, tensors[0].dtype), []).append(place)
        else:
            rest.append(place)
    for places in groups.values():
        if len(places) == 1 and lists[0][places[0]].numel() < SMALL:
            rest += places
        else:
            op(*_of(lists, places))
    if rest:
        plain(*_of(lists, rest))


def _fits(tensors: Sequence[Tensor]) -> bool:
    """Whether the kernel takes these: a tensor, perhaps its hidden copy, and the mask."""
    first, *others = tensors
    if not _fuses(first.device, first.dtype) or (first.requires_grad and torch.is_grad_enabled()):
        return False  # a product that autograd is to follow, of a gradient that was made with create_graph=True
    if any(other.dtype != first.dtype for other in others[:-1]):
        return False
    return any(all(tensor.is_contiguous(memory_format=each) for tensor in tensors) for each in _FORMATS)


@functools.cache
def _fuses(device: torch.device, dtype: torch.dtype) -> bool:
    return path(device, dtype).name == "Triton"


def _of(lists: _Lists, places: Sequence[int]) -> list[list[Tensor]]:
    return [[tensors[place] for place in places] for tensors in lists]
