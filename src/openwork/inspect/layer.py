"""Counting one weight tensor."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

from torch import Tensor

from openwork.core.layout import Layout
from openwork.core.sharded import is_sharded
from openwork.inspect.counts import LayerCounts
from openwork.inspect.not_finite import NotFinite, count_not_finite
from openwork.inspect.size import size_of
from openwork.inspect.structure import Structure, count_nonzero, count_structure

T = TypeVar("T")
_ACCIDENTAL = 0.01  # nobody prunes less than 1 % of a tensor; initialisation and padding rows leave fewer zeros


def count_layer(
    name: str,
    stored: Tensor,
    layout: Layout | None,
    mask: Tensor | None,
    flops: tuple[int, int] | None,
    also: tuple[str, ...],
    found: Structure | None = None,
    not_finite: NotFinite | None = None,
) -> LayerCounts:
    """The counts of one weight tensor.

    Args:
        name: Its first name.
        stored: The tensor as it is.
        layout: How it is stored; None where that is unknown, so that it has no patterns to count.
        mask: True where a sparsifier keeps a weight; None where no sparsifier is known.
        flops: (dense, sparse) for an example; None without one.
        also: Other names of the same memory.
        found: Its zeros and their patterns, where they have been counted already.
        not_finite: The values that are not finite, where they have been counted already.

    Raises:
        ValueError: If the zeros cannot be counted.
    """
    if found is None and layout is not None and not stored.is_meta and not is_sharded(stored):
        found = counted(name, stored, partial(count_structure, layout=layout))
    nonzero = found.nonzero if found else counted(name, stored, count_nonzero)
    zeros = stored.numel() - nonzero
    accidental = zeros if zeros < _ACCIDENTAL * stored.numel() else 0
    if mask is not None:
        accidental = int((mask.bool() & (stored.detach() == 0)).count_nonzero())
    return LayerCounts(
        name,
        tuple(stored.shape),
        stored.numel(),
        nonzero,
        str(stored.dtype).removeprefix("torch."),
        size_of(stored, nonzero),
        accidental,
        found.dead_outputs if found else None,
        found.dead_inputs if found else None,
        found.groups if found else {},
        found.blocks if found else {},
        flops,
        also,
        counted(name, stored, count_not_finite) if not_finite is None else not_finite,
    )


class OtherCounts(NamedTuple):
    """A parameter that is no layer's weight, and how many of its values are not zero and not finite."""

    name: str
    tensor: Tensor
    nonzero: int
    not_finite: NotFinite


def count_other(name: str, tensor: Tensor) -> OtherCounts:
    """The counts of a parameter that is no layer's weight; raises ValueError if they cannot be counted."""
    return OtherCounts(name, tensor, counted(name, tensor, count_nonzero), counted(name, tensor, count_not_finite))


def counted(name: str, tensor: Tensor, count: Callable[[Tensor], T]) -> T:
    """What ``count`` returns for the tensor.

    Args:
        name: The tensor's name, for the error.
        tensor: The tensor, which may need a gradient.
        count: The function to call.

    Raises:
        ValueError: If ``count`` refuses the tensor, or torch cannot compare its layout or type with zero.
    """
    try:
        return count(tensor.detach())
    except (ValueError, RuntimeError) as error:  # torch's, for a layout or type that it cannot compare with zero
        raise ValueError(f"cannot count the zeros of {name}: {str(error).splitlines()[0]}") from error
