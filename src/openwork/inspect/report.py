"""The audit: what a model or a checkpoint really holds, counted in the tensors themselves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from openwork.core.layout import output_first
from openwork.core.parameters.weight import ReparameterizedWeight
from openwork.core.selection import Select, find_weights, weight_matrices
from openwork.core.sharded import is_sharded
from openwork.core.sparsifier import Sparsifier
from openwork.formats.checkpoint import model_tensors, read_checkpoint
from openwork.inspect.flops import CONVENTION, Flops, count_flops
from openwork.inspect.size import Size, size_of
from openwork.inspect.structure import count_nonzero, count_structure
from openwork.inspect.table import markdown_table, text_table

T = TypeVar("T")
NO_FLOPS = "not counted: pass audit(model, example=...) an input; a file has no module to run"
_ACCIDENTAL = 0.01  # no one prunes less than 1 % of a tensor; initialisation and padding rows leave less


@dataclass(frozen=True)
class LayerCounts:
    """One weight tensor: its name, shape, number of weights and of non-zero ones, and what pattern the zeros form."""

    name: str
    shape: tuple[int, ...]
    weights: int
    nonzero: int
    dtype: str
    size: Size
    accidental: int
    """Zeros that no pruning asks for: those outside the mask where a sparsifier knows it, otherwise all zeros of a
    tensor that has fewer than 1 % of them."""
    dead_outputs: int | None
    """Slices along the first axis without a non-zero: units, filters, embeddings. None for a tensor too large."""
    dead_inputs: int | None
    """The same along the second axis."""
    groups: dict[str, float] = field(default_factory=dict, hash=False)
    """"2:4" -> the fraction of groups of 4 weights along the input with at most 2 non-zeros; also 1:4 and 4:8."""
    blocks: dict[str, float] = field(default_factory=dict, hash=False)
    """"4x4" -> the fraction of zeros in aligned all-zero blocks of 4 rows and 4 columns; also other sizes."""
    flops: tuple[int, int] | None = None
    """(dense, sparse) for the example, None without one."""
    also: tuple[str, ...] = ()
    """Other names of the same memory (tied weights)."""

    @property
    def sparsity(self) -> float:
        """The fraction of zeros, 0-1."""
        return (self.weights - self.nonzero) / self.weights if self.weights else 0.0

    @property
    def pattern(self) -> str:
        """The strictest pattern of all zeros: the largest block, else n:m; "" for none, or only accidental zeros."""
        if self.accidental == self.weights - self.nonzero:
            return ""
        if not self.nonzero:
            return "all zero"
        whole = [name for name, fraction in self.blocks.items() if fraction == 1.0]
        return whole[-1] if whole else next((name for name, fraction in self.groups.items() if fraction == 1.0), "")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "name": self.name,
            "also": list(self.also),
            "shape": list(self.shape),
            "dtype": self.dtype,
            "weights": self.weights,
            "nonzero": self.nonzero,
            "sparsity": self.sparsity,
            "accidental": self.accidental,
            "dead": {"outputs": self.dead_outputs, "inputs": self.dead_inputs},
            "pattern": self.pattern,
            "groups": self.groups,
            "blocks": self.blocks,
            "bytes": vars(self.size),
            "flops": {"dense": self.flops[0], "sparse": self.flops[1]} if self.flops else None,
        }


@dataclass(frozen=True)
class Audit:
    """What `audit` counted; prints as a table."""

    layers: tuple[LayerCounts, ...]
    parameters: int
    """All parameters of the model, biases and norms included."""
    zeros: int
    """Zeros among all parameters."""
    size: Size
    """Of all parameters."""
    flops: Flops | None = None
    """Of the example's forward pass, None without one."""
    skipped: dict[str, str] = field(default_factory=dict, hash=False)
    """What a file holds beside parameters, by name, and why it does not count."""

    @property
    def sparsity(self) -> float:
        """The fraction of zeros, 0-1, among the weights of `layers`."""
        weights = sum(layer.weights for layer in self.layers)
        return sum(layer.weights - layer.nonzero for layer in self.layers) / weights if weights else 0.0

    @property
    def sparsity_all(self) -> float:
        """The fraction of zeros, 0-1, among all parameters."""
        return self.zeros / self.parameters if self.parameters else 0.0

    @property
    def accidental(self) -> int:
        """Accidental zeros of the layers, and all zeros of other parameters, which nobody selected."""
        selected = sum(layer.weights - layer.nonzero for layer in self.layers)
        return sum(layer.accidental for layer in self.layers) + self.zeros - selected

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


def audit(
    source: "nn.Module | Sparsifier | Mapping[str, Any] | str | Path",
    *,
    select: Select | None = None,
    example: Any = None,
) -> Audit:
    """What a model or a checkpoint holds, per weight and in total: zeros, their patterns, bytes and FLOPs.

    source: a module; a `Sparsifier`, for its model as `finalize` would return it; a state dict; a checkpoint file or
    Hugging Face folder. Of a module, ``layers`` are the weights that ``select`` picks (by default `weight_matrices`),
    tied ones once. A file or state dict knows no modules: there they are the floating-point and int8 tensors of two or
    more dimensions, tied ones once where they share memory, and every floating-point tensor but batch-norm statistics
    is a parameter; ``skipped`` names the others.
    example: an input of the module, a tuple of arguments or a mapping of keyword arguments, for which to count FLOPs.
    Raises FileNotFoundError and ValueError for files that cannot be read, ValueError for tensors without values and for
    a model in which variational dropout or L0 is at work. For a model that FSDP2 shards, all processes must call this.
    """
    masks: dict[str, Tensor] = {}
    if isinstance(source, Sparsifier):
        if select is not None:
            raise ValueError("a sparsifier has its own selection; leave select out, or audit its model")
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


def _of_model(model: nn.Module, select: Select, example: Any, masks: Mapping[str, Tensor]) -> Audit:
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ValueError(f"{name} has no values yet; run the model on one batch first")
    if any(isinstance(module, ReparameterizedWeight) for module in model.modules()):
        raise ValueError(
            f"the weights of {type(model).__name__} are random variables; audit its sparsifier, or on what "
            "finalize() returns"
        )
    weights, _ = find_weights(model, select)
    flops = None if example is None else count_flops(model, example)
    layers, inside = [], {}
    for weight in weights:
        uses = flops.weights.get(weight.name, (0, 0)) if flops else None
        also = tuple(site.name for site in weight.sites[1:])
        tensor = _by_output(weight.parameter, weight.sites[0].module)
        layer = _layer(weight.name, weight.parameter, tensor, masks.get(weight.name), uses, also)
        layers.append(layer)
        inside[id(weight.parameter)] = layer
    others = [(name, p) for name, p in model.named_parameters() if id(p) not in inside]
    return _total(layers, others, flops, {})


def _of_tensors(tensors: Mapping[str, Tensor], skipped: dict[str, str]) -> Audit:
    first: dict[tuple[Any, ...], str] = {}
    names: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        reason = _not_counted(name, tensor)
        if reason:
            skipped[name] = reason
        else:
            names.setdefault(first.setdefault(_memory(name, tensor), name), []).append(name)
    layers = [
        _layer(name, tensors[name], tensors[name], None, None, tuple(names[name][1:]))
        for name in names
        if tensors[name].dim() > 1
    ]
    return _total(layers, [(name, tensors[name]) for name in names if tensors[name].dim() < 2], None, skipped)


def _total(
    layers: list[LayerCounts], others: Sequence[tuple[str, Tensor]], flops: Flops | None, skipped: dict[str, str]
) -> Audit:
    parameters = sum(layer.weights for layer in layers)
    nonzero = sum(layer.nonzero for layer in layers)
    size = sum((layer.size for layer in layers), Size())
    for name, tensor in others:
        count = _counted(name, tensor, count_nonzero)
        parameters, nonzero = parameters + tensor.numel(), nonzero + count
        size += size_of(tensor, count)
    return Audit(tuple(layers), parameters, parameters - nonzero, size, flops, skipped)


def _layer(
    name: str,
    stored: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    flops: tuple[int, int] | None,
    also: tuple[str, ...],
) -> LayerCounts:
    """stored: the tensor as it is; weight: the same with the outputs first."""
    whole = weight.dim() > 1 and not weight.is_meta and not is_sharded(weight)
    found = _counted(name, weight, count_structure) if whole else None
    nonzero = found.nonzero if found else _counted(name, stored, count_nonzero)
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
    )


def _counted(name: str, tensor: Tensor, count: Callable[[Tensor], T]) -> T:
    try:
        return count(tensor.detach())
    except (ValueError, RuntimeError) as error:  # torch's, for a layout or type that it cannot compare with zero
        raise ValueError(f"cannot count the zeros of {name}: {str(error).splitlines()[0]}") from error


def _by_output(weight: Tensor, module: nn.Module) -> Tensor:
    """The weight with the outputs along its first axis; transposed convolutions keep theirs along the second."""
    if not isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return output_first(weight, module)
    grouped = weight.detach().view(module.groups, -1, *weight.shape[1:])  # (groups, in, out, *kernel) of each group
    return grouped.transpose(1, 2).flatten(0, 1)


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
