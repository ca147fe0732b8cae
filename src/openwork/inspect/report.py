"""Counting what a model or a checkpoint really holds, in the tensors themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from openwork.core.layout import stored_layout
from openwork.core.parameters.weight import ReparameterizedWeight
from openwork.core.selection import Select, find_weights, weight_matrices
from openwork.core.sparsifier import Sparsifier
from openwork.formats.checkpoint import model_tensors, read_checkpoint
from openwork.inspect.counts import Counts, LayerCounts
from openwork.inspect.flops import CONVENTION, Flops, count_flops
from openwork.inspect.layer import count_layer, counted
from openwork.inspect.size import Size, size_of
from openwork.inspect.structure import count_nonzero
from openwork.inspect.table import markdown_table, text_table

NO_FLOPS = "not counted: pass report(model, example=...) an input; a file has no module to run"


@dataclass(frozen=True)
class Report(Counts):
    """What `report` counted; prints as a table."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "layers": [layer.to_dict() for layer in self.layers],
            "sparsity": {"selected": self.sparsity, "all": self.sparsity_all},
            "parameters": self.parameters,
            "zeros": self.zeros,
            "accidental": self.accidental,
            "bytes": vars(self.size),
            "flops": self._flops(),
            "skipped": self.skipped,
        }

    def _flops(self) -> dict[str, Any]:
        if self.flops is None:
            return {"dense": None, "sparse": None, "reason": NO_FLOPS}
        return {
            "dense": self.flops.dense,
            "sparse": self.flops.sparse,
            "by_weight": {name: {"dense": d, "sparse": s} for name, (d, s) in self.flops.weights.items()},
            "other": self.flops.other,
            "uncounted": self.flops.uncounted,
            "convention": CONVENTION,
        }

    def __str__(self) -> str:
        return text_table(self)

    def to_markdown(self) -> str:
        """The table in Markdown, with a row for every layer."""
        return markdown_table(self)


def report(
    source: "nn.Module | Sparsifier | Mapping[str, Any] | str | Path",
    *,
    select: Select | None = None,
    example: Any = None,
) -> Report:
    """What a model or a checkpoint holds, per weight and in total: zeros, their patterns, bytes and FLOPs.

    The ``layers`` of a module are the weights that ``select`` picks, tied ones once. A file or state dict knows no
    modules: its layers are the floating-point and int8 tensors of two or more dimensions, tied ones once where they
    share memory; every floating-point tensor but batch-norm statistics is a parameter, and ``skipped`` names the rest.
    All processes must call this for a model that FSDP2 shards.

    Args:
        source: A module; a `Sparsifier`, for its model as `finalize` would return it; a state dict; a checkpoint file
            or Hugging Face folder.
        select: Picks the weights of a module; by default `weight_matrices`.
        example: An input of the module, a tuple of arguments or a mapping of keyword arguments, to count FLOPs for.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read, a tensor has no values, or variational dropout or L0 computes the
            model's weights.
    """
    masks: dict[str, Tensor] = {}
    if isinstance(source, Sparsifier):
        if select is not None:
            raise ValueError("a sparsifier has its own selection; leave select out, or report on its model")
        masks = source.state_dict().get("masks", {})
        names = {weight.name for weight in source.weights}
        return _of_model(source.finalized_copy(), lambda name, parameter, module: name in names, example, masks)
    if isinstance(source, nn.Module):
        return _of_model(source, select or weight_matrices, example, masks)
    if select is not None or example is not None:
        raise ValueError("a checkpoint knows no modules, which select and example need; load it into its model first")
    if isinstance(source, Mapping):
        return _of_tensors(model_tensors(source, "the mapping").tensors, {})
    checkpoint = read_checkpoint(source)
    return _of_tensors(checkpoint.tensors, dict.fromkeys(checkpoint.left_out, "not part of the model's state"))


def _of_model(model: nn.Module, select: Select, example: Any, masks: Mapping[str, Tensor]) -> Report:
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ValueError(f"{name} has no values yet; run the model on one batch first")
    if any(isinstance(module, ReparameterizedWeight) for module in model.modules()):
        raise ValueError(
            f"the weights of {type(model).__name__} are random variables; report on its sparsifier, or on what "
            "finalize() returns"
        )
    weights, _ = find_weights(model, select)
    flops = None if example is None else count_flops(model, example)
    layers, inside = [], {}
    for weight in weights:
        uses = flops.weights.get(weight.name, (0, 0)) if flops else None
        also = tuple(site.name for site in weight.sites[1:])
        layer = count_layer(weight.name, weight.parameter, weight.layout, masks.get(weight.name), uses, also)
        layers.append(layer)
        inside[id(weight.parameter)] = layer
    others = [(name, p) for name, p in model.named_parameters() if id(p) not in inside]
    return _total(layers, others, flops, {})


def _of_tensors(tensors: Mapping[str, Tensor], skipped: dict[str, str]) -> Report:
    first: dict[tuple[Any, ...], str] = {}
    names: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        reason = _not_counted(name, tensor)
        if reason:
            skipped[name] = reason
        else:
            names.setdefault(first.setdefault(_memory(name, tensor), name), []).append(name)
    layers = [
        count_layer(name, tensors[name], stored_layout(name, tensors[name].shape), None, None, tuple(names[name][1:]))
        for name in names
        if tensors[name].dim() > 1
    ]
    return _total(layers, [(name, tensors[name]) for name in names if tensors[name].dim() < 2], None, skipped)


def _total(
    layers: list[LayerCounts], others: Sequence[tuple[str, Tensor]], flops: Flops | None, skipped: dict[str, str]
) -> Report:
    parameters = sum(layer.weights for layer in layers)
    nonzero = sum(layer.nonzero for layer in layers)
    size = sum((layer.size for layer in layers), Size())
    for name, tensor in others:
        count = counted(name, tensor, count_nonzero)
        parameters, nonzero = parameters + tensor.numel(), nonzero + count
        size += size_of(tensor, count)
    return Report(tuple(layers), parameters, parameters - nonzero, size, flops, skipped)


def _not_counted(name: str, tensor: Tensor) -> str:
    """Why a file's tensor is no parameter, or ""."""
    if name.rpartition(".")[2] in ("running_mean", "running_var"):
        return "batch-norm statistics"
    if tensor.is_nested or str(tensor.dtype).startswith("torch.float4"):
        return "nested tensor" if tensor.is_nested else "packed 4-bit values"
    if tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized:
        return ""
    if tensor.dtype == torch.int8 and tensor.dim() > 1:
        return ""  # symmetric quantisation: its zero is 0
    return str(tensor.dtype).removeprefix("torch.")  # indices, counters, or codes whose zero is unknown


def _memory(name: str, tensor: Tensor) -> tuple[Any, ...]:
    """Equal for tensors that show the same memory in the same way."""
    if tensor.layout != torch.strided or tensor.is_meta or not tensor.numel():
        return (name,)
    place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset())
    return (*place, tensor.dtype, tensor.shape, tensor.stride())
