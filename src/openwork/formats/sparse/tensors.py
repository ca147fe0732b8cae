"""Which tensors a file can hold, and which of a state are one and the same."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from openwork.formats.sparse.dtypes import NAMES

_TYPES = (Tensor, nn.Parameter, nn.Buffer)


def untied(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a state, each once, and the names of the others with the name of the one that is the same.

    Raises:
        TypeError: If it is no state.
        ValueError: If a file of tensors cannot hold the state.
    """
    if not isinstance(state, Mapping):
        raise TypeError(
            f"expected a model, a sparsifier or a state dict, got a {type(state).__name__}; give one of them"
        )
    if not state:
        raise ValueError("there is no tensor to save; give a model or its state_dict()")
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    for name, tensor in state.items():
        _check(name, tensor)
        # What is empty has no place in memory.
        views = (tensor.is_conj(), tensor.is_neg())  # of the same memory, with other values
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), views)
        like = first.setdefault(place, name) if tensor.numel() else name
        if like == name:
            tensors[name] = tensor
        else:
            tied[name] = like
    return tensors, tied


def _check(name: Any, tensor: Any) -> None:
    """Raises ValueError for what a file of tensors cannot hold, with what to give instead."""
    if not is_text(name) or name == "__metadata__":
        raise ValueError(f"a tensor is named {name!r}, which a file cannot have; give it another name")
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name!r} is a {type(tensor).__name__} and no tensor; leave it out of the state")
    if is_lazy(tensor):
        raise ValueError(f"{name!r} has no values yet; run the model on one batch first")
    if type(tensor) not in _TYPES:
        raise ValueError(
            f"{name!r} is a {type(tensor).__name__}, whose values are not in one piece of memory; give a plain tensor, "
            "such as full_tensor() of a DTensor or dequantize() of quantized weights"
        )
    if tensor.is_meta:
        raise ValueError(f"{name!r} is on the meta device and has no values; load the weights first")
    if tensor.is_quantized:
        raise ValueError(f"{name!r} is quantized by torch ({tensor.dtype}); save its dequantize() or int_repr()")
    if tensor.layout != torch.strided or tensor.is_nested:
        layout = "nested" if tensor.is_nested else tensor.layout
        raise ValueError(f"{name!r} has the layout {layout}; save its to_dense(), whose zeros take no space")
    if tensor.dtype not in NAMES:
        raise ValueError(f"{name!r} is {tensor.dtype}, which no file of tensors holds; convert it to another dtype")


def is_text(value: Any) -> bool:
    """Whether it is a string that a file can hold: one of half a character (a lone surrogate) has no UTF-8."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def plain_tensor(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, in one piece of memory of its own order."""
    return tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()


def in_bytes(tensor: Tensor) -> Tensor:
    """The bytes of a tensor; of a contiguous one on the CPU they are the same memory."""
    return plain_tensor(tensor).reshape(-1).view(torch.uint8)
