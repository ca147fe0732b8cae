"""What is read and made by whom in a model's graph: units and constants, followed through all operations."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from openwork.core.numbers import not_numbers
from openwork.inference.shrink.trace import Following
from openwork.inference.shrink.units import Units
from openwork.inference.shrink.values import Value, fixed


@dataclass(frozen=True)
class Read:
    """A product of activations with a weight.

    Args:
        node: The operation.
        weight: The weight's name.
        dims: The weight's dimensions of outputs and inputs.
        outputs: The unit of each output.
        inputs: The unit of each input.
        known: The constant that each input has, NaN where it depends on the model's input.
        made: The constant that each output has, in the same way.
        bias: The bias's name; None where it has none.
        padded: Whether zeros surround the input, so that a constant that is not 0 is none at the border.
    """

    node: fx.Node
    weight: str
    dims: tuple[int, int]
    outputs: Tensor
    inputs: Tensor
    known: Tensor
    made: Tensor
    bias: str | None
    padded: bool


@dataclass(frozen=True)
class Heads:
    """A dimension that may be that of heads after a reshape: the unit of each head, and the features of one.

    Args:
        module: The path of the module whose code reshapes.
        units: The unit of each head.
        features: How many features belong to one.
    """

    module: str
    units: Tensor
    features: int


@dataclass
class Graph(Following):
    """All that following the nodes has found.

    Args:
        tensors: The model's parameters and buffers by name.
        immovable: Of those that cannot change their size, the reason.
        refused: Source lines whose reshapes keep all units, and weights that keep all outputs, as code counts them.
    """

    tensors: Mapping[str, Tensor]
    immovable: Mapping[str, str] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()
    units: Units = field(default_factory=Units)
    reads: list[Read] = field(default_factory=list)
    heads: list[Heads] = field(default_factory=list)
    reshaping_lines: dict[str, None] = field(default_factory=dict)
    parameters: dict[str, Value] = field(default_factory=dict)
    uses: Counter[str] = field(default_factory=Counter)
    values: dict[fx.Node, Any] = field(default_factory=dict)

    def parameter(self, name: str) -> Value:
        """The value of a parameter or buffer, each output and input of which is a unit; a kernel keeps its places."""
        if name not in self.parameters:
            tensor = self.tensors[name]
            axes = tuple(self.units.fresh(size) if dim < 2 else None for dim, size in enumerate(tensor.shape))
            numbers = tensor.is_floating_point() and not not_numbers(tensor)
            known = (tensor.detach(), name) if numbers else (None, None)
            self.parameters[name] = Value(tuple(tensor.shape), axes, *known)
            if name in self.immovable and axes:
                self.units.pin(axes[0], self.immovable[name])
        return self.parameters[name]

    def agree(self, values: list[Value], shape: tuple[int, ...], reason: str) -> tuple[Tensor | None, ...]:
        """The axes of a result in which tensors of broadcastable shapes meet; those that meet become one."""
        axes: list[Tensor | None] = []
        for dim, size in enumerate(shape):
            meeting = []
            for value in values:
                own = dim - len(shape) + len(value.shape)
                if own >= 0 and value.shape[own] == size:
                    meeting.append(value.axes[own])
            named = [ids for ids in meeting if ids is not None]
            for ids in named[1:]:
                self.units.unify(named[0], ids)
            if named and len(named) < len(meeting):
                self.units.pin(named[0], reason)
            axes.append(named[0] if named else None)
        return tuple(axes)

    def pin(self, value: Any, reason: str) -> None:
        """Keeps all units of a value, or of those in a list."""
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, Value):
                for ids in one.axes:
                    self.units.pin(ids, reason)

    def read(
        self,
        node: fx.Node,
        x: Value,
        weight: Value,
        dims: tuple[int, int],
        bias: Value | None,
        *,
        along: int,
        padded: bool = False,
    ) -> tuple[Tensor | None, Tensor]:
        """Notes a product; returns the unit of each output and the constant that it has.

        Args:
            node: The operation.
            x: What is multiplied.
            weight: What it is multiplied by.
            dims: The weight's dimensions of outputs and inputs.
            bias: What is added.
            along: The dimension of ``x`` that is summed over.
            padded: Whether zeros surround ``x``.
        """
        outputs, inputs = weight.axes[dims[0]], weight.axes[dims[1]]
        count = weight.shape[dims[0]]
        unknown = torch.full((count,), torch.nan, dtype=torch.float64, device="cpu")
        if weight.name is None or outputs is None or inputs is None:
            reason = (
                "the weight that reads it is computed, by a parametrization or other code, or holds no plain numbers"
            )
            self.pin([x, weight, bias], reason)
            return None, unknown
        if weight.name in self.refused:
            self.units.pin(outputs, COUNTED)
        if bias is not None and bias.axes[-1] is not None:
            self.units.unify(outputs, bias.axes[-1])
        came = x.axes[along]
        if came is None:
            self.units.pin(inputs, "it reads the model's input or another tensor of a fixed size")
        else:
            self.units.unify(inputs, came)
        known = x.known(along)
        made = self._made(weight, dims, known, bias, padded=padded)
        self.reads.append(
            Read(node, weight.name, dims, outputs, inputs, known, made, bias.name if bias else None, padded)
        )
        return outputs, made

    def _made(self, weight: Value, dims: tuple[int, int], known: Tensor, bias: Value | None, *, padded: bool) -> Tensor:
        """The constant that each output has: those whose weights for inputs without a constant are all zero."""
        assert weight.const is not None
        matrix = oriented(weight.const, dims)
        usable = (known == 0) if padded else ~known.isnan()
        rows = ~(matrix[:, ~usable.to(matrix.device)] != 0).flatten(1).any(1)
        made = torch.full((len(matrix),), torch.nan, dtype=torch.float64, device=matrix.device)
        if rows.any():
            factors = torch.where(usable, known, 0.0).to(made)
            made[rows] = (
                _summed(matrix[rows].double(), factors) if (factors != 0).any() else torch.zeros_like(made[rows])
            )
            if bias is not None:
                made[rows] += bias.const.double()[rows] if bias.const is not None else torch.nan
        return made.cpu()


COUNTED = "the code counts on how many there are"
Rule = Callable[[Graph, fx.Node, dict[str, Any]], Any]


def oriented(weight: Tensor, dims: tuple[int, int]) -> Tensor:
    """The weight as (outputs, inputs) or (outputs, inputs, positions)."""
    return weight.movedim(dims, (0, 1)).flatten(2) if weight.dim() > 2 else weight.movedim(dims, (0, 1))


def _summed(matrix: Tensor, factors: Tensor) -> Tensor:
    return (matrix.sum(2) if matrix.dim() > 2 else matrix) @ factors


def shapes(node: fx.Node) -> Any:
    """The shape of a node's tensor, or a list of those of several; None for what is no tensor."""
    found = node.meta.get("val")
    if isinstance(found, Tensor):
        return tuple(int(size) for size in found.shape)
    if isinstance(found, list | tuple):
        return [tuple(one.shape) if isinstance(one, Tensor) else None for one in found]
    return None


def opaque(node: fx.Node) -> Any:
    """A result without units of which nothing is known."""
    found = shapes(node)
    if isinstance(found, list):
        return [fixed(shape) if shape is not None else None for shape in found]
    return fixed(found) if found is not None else None
