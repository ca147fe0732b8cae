"""Counting the values of a tensor that are no finite numbers: what a training that diverged leaves behind."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from openwork.core.names import few
from openwork.core.sharded import is_sharded, local, shards_of
from openwork.inspect.structure import distinct_values

_CHUNK = 1 << 23  # as count_structure has it


class NotFinite(NamedTuple):
    """How many values of a tensor are NaN, and how many are infinite."""

    nan: int = 0
    infinite: int = 0

    def __str__(self) -> str:
        return " and ".join(f"{n:,} {word}" for n, word in ((self.nan, "NaN"), (self.infinite, "infinite")) if n)


ALL_FINITE = NotFinite()


def count_not_finite(tensor: Tensor) -> NotFinite:
    """How many values are NaN or infinite; all processes must call it for a sharded tensor.

    Args:
        tensor: Of any layout and type.

    Raises:
        ValueError: If the tensor has no values (meta), or its elements overlap in memory.
    """
    if is_sharded(tensor):
        return NotFinite(*shards_of(tensor).sum(list(count_not_finite(local(tensor)))))
    distinct, copies = distinct_values(tensor)
    nan = infinite = 0
    if distinct.is_floating_point() or distinct.is_complex():
        for piece in torch.split(distinct.reshape(-1), _CHUNK):
            piece = piece.float() if piece.dtype.itemsize == 1 else piece  # nothing below knows 8-bit types
            if piece.numel() and not _finite(piece):
                nan += int(piece.isnan().count_nonzero())
                infinite += int((piece.isinf() & ~piece.isnan()).count_nonzero())  # a complex number may be both
    return NotFinite(copies * nan, copies * infinite)


def count_each_not_finite(tensors: Tensor) -> list[NotFinite]:
    """What `count_not_finite` finds in each row of the first axis, (N, *shape), which wait for the device together."""
    if not tensors.numel() or not tensors.is_floating_point() or tensors.dtype.itemsize == 1:
        return [count_not_finite(tensor) for tensor in tensors]
    ends = torch.stack(torch.aminmax(tensors.reshape(len(tensors), -1), dim=1), 1)
    finite = ends.isfinite().all(1).tolist()
    return [ALL_FINITE if fine else count_not_finite(tensor) for tensor, fine in zip(tensors, finite, strict=True)]


def _finite(values: Tensor) -> bool:
    """Whether all are: both ends of values with NaN are NaN, and found in a thirtieth of the time of `isfinite`."""
    ends = torch.aminmax(values.abs() if values.is_complex() else values)
    return bool(torch.stack(ends).isfinite().all())


def not_finite_line(found: Mapping[str, NotFinite]) -> str:
    """What a report says of the tensors whose values are not all finite.

    Args:
        found: How many, by the tensor's name; at least one.
    """
    total = NotFinite(*map(sum, zip(*found.values(), strict=True)))
    each = few([f"{name} ({count})" for name, count in found.items()])
    return f"NOT finite: {total}, in {each}" if len(found) > 1 else f"NOT finite: {each}"
