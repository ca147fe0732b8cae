"""Tensors from the numbers of a pickle, each checked against the bytes that are there.

The functions have the arguments of torch's own in `torch._utils`, whose names pickles hold.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_DIMENSIONS = 64


@dataclass(frozen=True)
class Storage:
    """A storage of a file.

    Args:
        bytes: Its bytes.
        dtype: The type of its tensors.
    """

    bytes: torch.UntypedStorage
    dtype: torch.dtype


def storage_type(name: str) -> torch.dtype | None:
    """The type of a class of storages such as ``torch.FloatStorage``; None for another name."""
    module, _, kind = name.rpartition(".")
    if module not in ("torch", "torch.storage", "torch.cuda"):
        return None
    if kind == "UntypedStorage":
        return torch.uint8
    names = {one: dtype for dtype, one in torch.storage._dtype_to_storage_type_map().items()}
    return names.get(kind)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    """The third version of torch's function has the type among the rest."""
    if not isinstance(storage, Storage):
        raise ValueError("a tensor has no storage")
    dtype = next((one for one in rest if isinstance(one, torch.dtype)), storage.dtype)
    numbers = [offset, *_numbers(size), *_numbers(stride)]
    if not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers) or len(size) != len(stride):
        raise ValueError("a tensor has an impossible size")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and (last + 1) * dtype.itemsize > storage.bytes.nbytes():
        raise ValueError("a tensor needs more bytes than its storage has")
    return torch.empty(0, dtype=dtype, device="cpu").set_(storage.bytes, offset, tuple(size), tuple(stride))


def _numbers(values: Any) -> tuple[Any, ...]:
    """The values of a list or tuple; never those of a tensor, which may be expanded to any length."""
    if not isinstance(values, list | tuple) or len(values) > _DIMENSIONS:
        raise ValueError("a tensor has an impossible size")
    return tuple(values)


def _sparse(layout: Any, data: Any) -> Tensor:
    *parts, size = _numbers(data)[: 3 if layout is torch.sparse_coo else 4]
    if not parts or not all(isinstance(part, Tensor) and part.is_contiguous() for part in parts):
        raise ValueError("a sparse tensor lacks its parts")
    shape: Any = _numbers(size)
    if layout is torch.sparse_coo:
        return torch.sparse_coo_tensor(parts[0], parts[1], shape, check_invariants=True)
    return torch.sparse_compressed_tensor(parts[0], parts[1], parts[2], shape, layout=layout, check_invariants=True)


def _layout(name: Any) -> torch.layout:
    layout = getattr(torch, name.removeprefix("torch."), None) if isinstance(name, str) else None
    if not isinstance(layout, torch.layout):
        raise ValueError("a sparse tensor has an unknown layout")
    return layout


def _without_values(dtype: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    return torch.empty_strided(_numbers(size), _numbers(stride), dtype=dtype, device="meta")


def _first(first: Any, *rest: Any) -> Any:
    return first


def _subclass(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """A tensor with attributes, or of a class of its own, as a plain one where it is made as one."""
    if function in (_tensor, _first, _sparse):
        return function(*_numbers(arguments))
    return function(kind) if callable(function) else kind


def _mapping(*args: Any) -> Any:
    """An OrderedDict or defaultdict, whose items follow; one that is made from a dictionary is that dictionary."""
    return next((one for one in args if isinstance(one, dict)), {})


REBUILD: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_meta_tensor_no_storage": _without_values,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.serialization._get_layout": _layout,
    "torch.Size": _numbers,
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _mapping,
    "collections.Counter": _mapping,
}
