"""Counting a state dict or file, which knows no modules."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from openwork.core.layout import stored_layout
from openwork.formats.held import Held
from openwork.formats.layouts import held_weights
from openwork.inspect.counts import Counts, LayerCounts
from openwork.inspect.layer import OtherCounts, count_layer, count_other
from openwork.inspect.names import is_matrix
from openwork.inspect.own_training import random_weight
from openwork.inspect.total import layouts_in, total, value_of


def count_state(tensors: Mapping[str, Tensor], skipped: Mapping[str, str], notes: Sequence[str] = ()) -> Counts:
    """The counts of a state's weights.

    Args:
        tensors: All tensors of the state.
        skipped: Name -> why it does not count, for what the file holds in addition.
        notes: What is to be said beside the counts.

    Raises:
        ValueError: If a weight's zeros cannot be counted or known.
    """
    held, no_weights = held_weights(tensors, random_weight)
    skipped = {**skipped, **no_weights}
    found: dict[tuple[Any, ...], list[list[Held]]] = {}
    for weight in held:
        reason = "" if weight.layout else not_counted(weight.name, tensors[weight.parts[0]])
        if reason:
            skipped[weight.name] = reason
        else:
            _add(found.setdefault(_memory(weight.name, tensors[weight.parts[0]]), []), weight, tensors)
    groups = [group for groups in found.values() for group in groups]
    layers: list[LayerCounts] = []
    others: list[OtherCounts] = []
    for weight, *tied in groups:
        value = value_of(weight)
        if is_matrix(weight.name, value, tensors):
            layout = stored_layout(weight.name, value.shape)
            layers.append(count_layer(weight.name, value, layout, None, None, tuple(one.name for one in tied)))
        else:
            others.append(count_other(weight.name, value))
    return total(layers, others, None, skipped, [*notes, *layouts_in(held)])


def not_counted(name: str, tensor: Tensor) -> str:
    """Why a plain tensor is no parameter, or "".

    Args:
        name: Its name.
        tensor: The tensor.
    """
    if name.rpartition(".")[2] in ("running_mean", "running_var"):
        return "batch-norm statistics"
    if tensor.is_nested or str(tensor.dtype).startswith("torch.float4"):
        return "nested tensor" if tensor.is_nested else "packed 4-bit values"
    if tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized:
        return ""
    if tensor.dtype == torch.int8 and tensor.dim() > 1:
        return ""  # symmetric quantisation: its zero is 0
    return str(tensor.dtype).removeprefix("torch.")  # indices, counters, or codes whose zero is unknown


def _add(groups: list[list[Held]], weight: Held, tensors: Mapping[str, Tensor]) -> None:
    """Adds a weight to the group of those with its numbers whose masks are equal, too."""
    beside = [tensors[part] for part in weight.parts[1:]]
    for group in groups:
        if equal([tensors[part] for part in group[0].parts[1:]], beside):
            group.append(weight)
            return
    groups.append([weight])


def equal(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors have equal values.

    Args:
        first: One list.
        second: The other.
    """
    return len(first) == len(second) and all(
        a is b or (a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b))
        for a, b in zip(first, second, strict=True)
    )


def _memory(name: str, tensor: Tensor) -> tuple[Any, ...]:
    """Equal for tensors that show the same memory in the same way."""
    if tensor.layout != torch.strided or tensor.is_meta or not tensor.numel():
        return (name,)
    place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset())
    return (*place, tensor.dtype, tensor.shape, tensor.stride())
