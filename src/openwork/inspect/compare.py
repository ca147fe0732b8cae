"""Comparing the weights of two checkpoints: whether the zeros of one survived in the other."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openwork.core.names import few
from openwork.formats.checkpoint import read_checkpoint
from openwork.formats.held import Held
from openwork.formats.layouts import held_weights
from openwork.formats.model_part import model_tensors
from openwork.inspect.from_state import not_counted
from openwork.inspect.names import is_matrix
from openwork.inspect.not_finite import ALL_FINITE, NotFinite, count_not_finite, not_finite_line
from openwork.inspect.own_training import random_weight
from openwork.inspect.structure import DENSIFIED
from openwork.inspect.table import WIDTH, elided
from openwork.inspect.total import value_of
from openwork.words import count, printable

_WHICH = ("first", "second")
_CHUNK = 1 << 24  # elements compared at a time
_CODES = (torch.int8, torch.uint8)  # their difference from other numbers means nothing


@dataclass(frozen=True)
class Pair:
    """One weight of the same name and shape in both checkpoints.

    Args:
        name: Its name.
        shape: Its shape.
        layer: Whether it is a layer's matrix or kernel, as `report` counts them.
        weights: The number of its elements.
        zeros: How many are zero, in each.
        kept: How many are zero in both.
        difference: The largest absolute difference; None where one holds codes and the other numbers.
    """

    name: str
    shape: tuple[int, ...]
    layer: bool
    weights: int
    zeros: tuple[int, int]
    kept: int
    difference: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON, where a difference that is not finite is None."""
        finite = self.difference is not None and math.isfinite(self.difference)
        return {**asdict(self), "difference": self.difference if finite else None}


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; prints as a table.

    Args:
        pairs: The weights in both.
        only: The names in the first alone, and in the second alone.
        shapes: Name -> both shapes, where they differ.
        not_finite: How many values of the weights are NaN or infinite, by name, in the first and in the second.
    """

    pairs: tuple[Pair, ...]
    only: tuple[tuple[str, ...], tuple[str, ...]]
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    not_finite: tuple[dict[str, NotFinite], dict[str, NotFinite]] = field(default=({}, {}))

    @property
    def total(self) -> Pair:
        """All layers together."""
        layers = [pair for pair in self.pairs if pair.layer]
        zeros = sum(pair.zeros[0] for pair in layers), sum(pair.zeros[1] for pair in layers)
        largest = max((pair.difference for pair in self.pairs if pair.difference is not None), default=None)
        weights, kept = sum(pair.weights for pair in layers), sum(pair.kept for pair in layers)
        return Pair("all layers", (), True, weights, zeros, kept, largest)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        plain = {"sparsity": [zeros / self.total.weights if self.total.weights else 0.0 for zeros in self.total.zeros]}
        return {
            "total": {**self.total.to_dict(), **plain},
            "weights": [pair.to_dict() for pair in self.pairs],
            "only": {"first": list(self.only[0]), "second": list(self.only[1])},
            "shapes": {name: [list(a), list(b)] for name, (a, b) in self.shapes.items()},
            "not_finite": {
                which: {name: number._asdict() for name, number in found.items()}
                for which, found in zip(_WHICH, self.not_finite, strict=True)
            },
        }

    def __str__(self) -> str:
        layers = [pair for pair in self.pairs if pair.layer]
        rows: list[tuple[str, ...]] = [("weight", "shape", "sparsity", "in the second", "zeros kept", "max difference")]
        rows += [_cells(pair) for pair in [*layers, self.total]]
        widths = [max(len(row[i]) for row in rows) for i in range(6)]
        widths[0] = max(24, min(widths[0], WIDTH - sum(widths[1:]) - 10))
        lines = []
        for row in rows:
            cells = [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join([f"{elided(row[0], widths[0]):{widths[0]}}", *cells]))
        others = [pair for pair in self.pairs if not pair.layer]
        moved = sum(pair.difference != 0 for pair in others)
        lines.append(f"{count(len(others), 'other parameter')}, {moved} of them different")
        for which, names in zip(_WHICH, self.only, strict=True):
            lines += [f"only in the {which}: {few(names)}"] if names else []
        for which, found in zip(_WHICH, self.not_finite, strict=True):
            lines += [f"in the {which}, {not_finite_line(found)}"] if found else []
        for name, (a, b) in self.shapes.items():
            lines.append(f"{name} has shape {_shape(a)} in the first, {_shape(b)} in the second")
        return "\n".join(map(printable, lines))


def _cells(pair: Pair) -> tuple[str, ...]:
    a, b = (zeros / pair.weights if pair.weights else 0.0 for zeros in pair.zeros)
    kept = f"{pair.kept / pair.zeros[0]:.2%}" if pair.zeros[0] else "-"
    difference = "-" if pair.difference is None else f"{pair.difference:.3g}"
    return printable(pair.name), _shape(pair.shape), f"{a:.2%}", f"{b:.2%}", kept, difference


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def compare(first: Mapping[str, Any] | str | Path, second: Mapping[str, Any] | str | Path) -> Comparison:
    """The weights that two checkpoints have in common, and what only one of them has.

    Args:
        first: A state dict, checkpoint file or Hugging Face folder.
        second: Another.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If one of them cannot be read or counted, or they have no name in common.
    """
    (a, tensors), (b, _) = _weights(first, "the first"), _weights(second, "the second")
    common = [name for name in a if name in b]
    if not common:
        raise ValueError(
            f"they have no name in common: the first begins with {next(iter(a), 'nothing')}, the second with "
            f"{next(iter(b), 'nothing')}; give two checkpoints of one model"
        )
    pairs, shapes = [], {}
    not_finite: tuple[dict[str, NotFinite], dict[str, NotFinite]] = ({}, {})
    for name in common:
        x, y = _dense(a[name]), _dense(b[name])
        if x.shape == y.shape:
            pairs.append(_pair(name, is_matrix(name, x, tensors), x, y))
        else:
            shapes[name] = (tuple(x.shape), tuple(y.shape))
        for found, tensor in zip(not_finite, (x, y), strict=True):
            if any(number := count_not_finite(tensor)):
                found[name] = number
    only = tuple(name for name in a if name not in b), tuple(name for name in b if name not in a)
    for found, names, weights in zip(not_finite, only, (a, b), strict=True):
        for name in names:
            if any(number := _not_finite(weights[name])):
                found[name] = number
    return Comparison(tuple(pairs), only, shapes, not_finite)


def _weights(source: Mapping[str, Any] | str | Path, which: str) -> tuple[dict[str, Held], dict[str, Tensor]]:
    """The weights of a checkpoint by name, and its tensors."""
    tensors = (model_tensors(source, which) if isinstance(source, Mapping) else read_checkpoint(source)).tensors
    try:
        held, _ = held_weights(tensors, random_weight)
    except ValueError as error:
        raise ValueError(f"{which if isinstance(source, Mapping) else source}: {error}") from error
    plain = {one.name: one for one in held if one.layout or not not_counted(one.name, tensors[one.parts[0]])}
    return plain, tensors


def _not_finite(weight: Held) -> NotFinite:
    """Those of a weight that is compared with none: one whose values cannot be read is named all the same."""
    try:
        return count_not_finite(value_of(weight))
    except (ValueError, RuntimeError):
        return ALL_FINITE


def _dense(weight: Held) -> Tensor:
    value = value_of(weight)
    if value.is_meta:
        raise ValueError(f"{weight.name} is on the meta device and has no values; load the weights first")
    if value.is_quantized:
        return value.dequantize()
    if value.layout != torch.strided:
        if value.numel() > DENSIFIED:
            raise ValueError(f"{weight.name} is sparse and too large to compare; save it dense")
        return value.to_dense()
    return value


def _pair(name: str, layer: bool, x: Tensor, y: Tensor) -> Pair:
    zeros, kept, largest = [0, 0], 0, 0.0
    comparable = (x.dtype in _CODES) == (y.dtype in _CODES)
    for a, b in zip(*(torch.split(one.reshape(-1), _CHUNK) for one in (x, y)), strict=True):
        empty, also = a == 0, b == 0
        zeros[0] += int(empty.count_nonzero())
        zeros[1] += int(also.count_nonzero())
        kept += int((empty & also).count_nonzero())
        if comparable and a.numel():
            largest = max(largest, _largest(_wide(a), _wide(b)))
    return Pair(name, tuple(x.shape), layer, x.numel(), (zeros[0], zeros[1]), kept, largest if comparable else None)


def _largest(a: Tensor, b: Tensor) -> float:
    """The largest difference; 0 between equal values and between NaNs, infinite between NaN and a number."""
    same = (a == b) | (a.isnan() & b.isnan())
    return float((a - b).abs().nan_to_num(nan=torch.inf, posinf=torch.inf).masked_fill(same, 0).max())


def _wide(tensor: Tensor) -> Tensor:
    if tensor.is_complex() or tensor.dtype == torch.float64:
        return tensor
    return tensor.float()
