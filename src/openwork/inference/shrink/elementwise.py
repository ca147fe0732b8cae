"""Operations that compute each element from the elements at its place, or in half the places."""

from typing import Any

import torch
from torch import Tensor, fx

from openwork.inference.shrink.graph import Graph, Rule, opaque, shapes
from openwork.inference.shrink.reshaping import indexed
from openwork.inference.shrink.values import Value

_COPIES = {"clone", "_to_copy", "alias", "detach", "contiguous", "lift_fresh_copy", "lift_fresh", "to", "dropout"}
_RANDOM = getattr(torch.Tag, "nondeterministic_seeded", None)


def is_elementwise(target: Any) -> bool:
    """Whether each element of the result depends on the elements at its place alone."""
    tags = getattr(target, "tags", ())
    return torch.Tag.pointwise in tags and _RANDOM not in tags


def elementwise(graph: Graph, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Tensors of broadcastable shapes: sums, products, activations."""
    values = [value for value in _flat(arguments.values()) if isinstance(value, Value)]
    shape = shapes(node)
    axes = graph.agree(values, shape, "it meets the model's input or another tensor of a fixed size")
    return Value(shape, axes, _constants(graph, node, values))


def copy(graph: Graph, node: fx.Node, arguments: dict[str, Any]) -> Any:
    """The same values, in other memory or of another type."""
    value: Value = arguments["self"] if "self" in arguments else arguments["input"]
    if arguments.get("train"):  # dropout that is left on: its zeros are random
        graph.pin(value, "dropout is on in evaluation")
        return opaque(node)
    const = value.const if value.const is not None and value.const.is_floating_point() else None
    return Value(value.shape, value.axes, const)


def prelu(graph: Graph, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """A slope for each channel, the second dimension, or one for all."""
    x, slope = arguments["self"], arguments["weight"]
    if len(slope.axes) == 1 and slope.shape[0] > 1 and len(x.axes) > 1:
        spread = (1, slope.shape[0], *(1,) * (len(x.shape) - 2))
        axes = (None, slope.axes[0], *(None,) * (len(x.shape) - 2))
        slope = Value(spread, axes, slope.const.reshape(spread) if slope.const is not None else None)
    const = None
    if x.const is not None and slope.const is not None:
        high = _numbers(x)
        const = torch.where(high.isnan() | (high > 0), high, high * _numbers(slope))
    return Value(x.shape, graph.agree([x, slope], x.shape, "a slope"), const)


def glu(graph: Graph, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """One half of a dimension, multiplied by the sigmoid of the other."""
    x: Value = arguments["self"]
    dim = arguments.get("dim", -1) % len(x.shape)
    value, gate = (indexed(x, dim, half) for half in torch.arange(x.shape[dim], device="cpu").chunk(2))
    const = None
    if x.const is not None:
        const = _numbers(value) * _numbers(gate).sigmoid()
        const = torch.where(_numbers(value) == 0, 0.0, const)
    return Value(shapes(node), graph.agree([value, gate], shapes(node), "the other half has a fixed size"), const)


def _constants(graph: Graph, node: fx.Node, values: list[Value]) -> Tensor | None:
    """What the operation makes of constants; NaN where an operand is none."""
    if all(value.const is None for value in values):
        return None
    nans = [_numbers(value) for value in values]
    numbers = iter(nans)

    def number(argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            if not isinstance(graph.value(argument), Value):
                return graph.value(argument)
            found = next(numbers)
            return found.nan_to_num(0) != 0 if argument.meta["val"].dtype == torch.bool else found
        return [number(one) for one in argument] if isinstance(argument, list | tuple) else argument

    target: Any = node.target
    try:
        found = target(*[number(one) for one in node.args], **{k: number(one) for k, one in node.kwargs.items()})
    except Exception:  # an operation that takes no float64
        return None
    if not isinstance(found, Tensor):
        return None
    unknown = torch.zeros_like(found, dtype=torch.bool)
    for operand in nans:
        unknown = unknown | operand.isnan()
    found = torch.where(unknown, torch.nan, found.double())
    if target.overloadpacket is torch.ops.aten.mul:
        for operand in nans:
            found = torch.where(operand == 0, 0.0, found)
    return found if not found.isnan().all() else None


def _numbers(value: Value) -> Tensor:
    if value.const is None:
        return torch.full((1,) * len(value.shape), torch.nan, dtype=torch.float64, device="cpu")
    return value.const.double().cpu()


def _flat(arguments: Any) -> list[Any]:
    return [one for given in arguments for one in (given if isinstance(given, list | tuple) else [given])]


_UNTAGGED = ("hardswish", "log_sigmoid", "where")  # elementwise, but not all of their overloads say so
RULES: dict[str, Rule] = {
    **dict.fromkeys(_COPIES, copy),
    **dict.fromkeys(("prelu", "_prelu_kernel"), prelu),
    **dict.fromkeys(_UNTAGGED, elementwise),
    "glu": glu,
}
