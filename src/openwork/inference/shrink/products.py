"""Operations that sum over units: linear layers, convolutions, products of activations, attention."""

from typing import Any

import torch
from torch import Tensor, fx

from openwork.inference.shrink.graph import Graph, Rule, shapes
from openwork.inference.shrink.values import Value, only_zeros

_SCORES = "a product of two activations sums over it"


def linear(graph: Graph, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """X Wᵀ + b."""
    x, weight, bias = arguments["input"], arguments["weight"], arguments.get("bias")
    return _product(graph, node, x, weight, (0, 1), bias)


def addmm(graph: Graph, node: fx.Node, arguments: dict[str, Any]) -> Any:
    """B + x W, as the Conv1D of transformers computes."""
    bias, x, weight = arguments["self"], arguments["mat1"], arguments["mat2"]
    if arguments["beta"] != 1 or arguments["alpha"] != 1 or len(bias.shape) != 1:
        return matmul(graph, node, {"self": x, "other": weight})
    return _product(graph, node, x, weight, (1, 0), bias)


def matmul(graph: Graph, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """The product of two activations, or of one and a matrix."""
    left: Value = arguments["self"]
    right: Value = arguments["other"] if "other" in arguments else arguments["mat2"]
    if right.name is not None and len(right.shape) == 2:
        return _product(graph, node, left, right, (1, 0), None)
    shape = shapes(node)
    if min(len(left.shape), len(right.shape)) < 2 or left.name is not None:
        graph.pin([left, right], "it is multiplied in a way that openwork does not follow")
        return Value(shape, (None,) * len(shape))
    graph.units.pin(left.axes[-1], _SCORES)
    graph.units.pin(right.axes[-2], _SCORES)
    return Value(shape, (*_batch(graph, [left, right], shape), left.axes[-2], right.axes[-1]), _mixed(right))


def attention(graph: Graph, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Softmax(q kᵀ · scale + mask) v for each head."""
    query, key, value, mask = (arguments[name] for name in ("query", "key", "value", "attn_mask"))
    shape = shapes(node)
    batch = _batch(graph, [query, key, value, *([mask] if mask is not None else [])], shape)
    for one in (key, value):
        if one.shape[:-2] != query.shape[:-2]:
            graph.pin([query, key, value], "its heads share keys and values")
    for ids in (query.axes[-1], key.axes[-1], key.axes[-2], value.axes[-2]):
        graph.units.pin(ids, _SCORES)
    # The weights of attention sum to 1, unless a mask hides every position.
    const = value.const if value.const is not None and value.const.shape[-2] == 1 else None
    if const is not None and arguments["enable_gqa"] and const.shape[-3] > 1:  # several heads read each value
        const = const.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
    if mask is not None or arguments["dropout_p"] or arguments["is_causal"]:
        const = only_zeros(const)
    return Value(shape, (*batch, query.axes[-2], value.axes[-1]), const)


def convolution(graph: Graph, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """A convolution; one with groups keeps or loses whole groups."""
    x, weight, bias = arguments["input"], arguments["weight"], arguments["bias"]
    padding, shape = arguments["padding"], shapes(node)
    padded = padding == "same" or (not isinstance(padding, str) and any(padding))
    spatial = (None,) * (len(shape) - 2)
    along = 1 if len(x.shape) == len(weight.shape) else 0
    if arguments["groups"] > 1 or along == 0:
        return _grouped(graph, x, weight, bias, arguments["groups"], shape, padded=padded)
    outputs, made = graph.read(node, x, weight, (0, 1), bias, along=1, padded=padded)
    return Value(shape, (x.axes[0], outputs, *spatial), _along(made, 1, len(shape)))


def transposed_convolution(graph: Graph, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """A transposed convolution: an output takes in other numbers of inputs at other places, so only zeros count."""
    x, weight, bias, shape = arguments["input"], arguments["weight"], arguments["bias"], shapes(node)
    if arguments["groups"] > 1 or len(x.shape) != len(weight.shape):
        graph.pin([x, weight, bias], "a transposed convolution with groups keeps its channels")
        return Value(shape, (None,) * len(shape))
    outputs, made = graph.read(node, x, weight, (1, 0), bias, along=1, padded=True)
    return Value(shape, (x.axes[0], outputs, *(None,) * (len(shape) - 2)), _along(made, 1, len(shape)))


def _product(graph: Graph, node: fx.Node, x: Value, weight: Value, dims: tuple[int, int], bias: Value | None) -> Value:
    shape = shapes(node)
    outputs, made = graph.read(node, x, weight, dims, bias, along=len(x.shape) - 1)
    return Value(shape, (*x.axes[:-1], outputs), _along(made, len(shape) - 1, len(shape)))


def _grouped(
    graph: Graph, x: Value, weight: Value, bias: Value | None, count: int, shape: tuple[int, ...], *, padded: bool
) -> Value:
    """Each group is one unit with all of its inputs and outputs."""
    dim = len(shape) - len(weight.shape) + 1  # of the channels; without a batch the first
    inputs, outputs = x.axes[dim], weight.axes[0]
    graph.units.pin(weight.axes[1], "every group of the convolution reads it")
    if weight.name is None or inputs is None or outputs is None or count == 1:
        graph.pin([x, weight, bias], "openwork does not follow this convolution")
        return Value(shape, (None,) * len(shape))
    for ids in (inputs.reshape(count, -1), outputs.reshape(count, -1)):
        graph.units.unify(outputs.reshape(count, -1)[:, :1].expand_as(ids), ids)
    if bias is not None and bias.axes[0] is not None:
        graph.units.unify(outputs, bias.axes[0])
    known = x.known(dim).reshape(count, 1, -1)
    usable = known == 0 if padded else ~known.isnan()
    assert weight.const is not None
    matrix = weight.const.detach().double().cpu().flatten(2).reshape(count, len(outputs) // count, weight.shape[1], -1)
    dead = (~usable.unsqueeze(-1) & (matrix != 0)).flatten(2).any(2)
    made = (matrix.sum(3) * torch.where(usable, known, 0.0)).sum(2)
    made = torch.where(dead, torch.nan, made).flatten()
    if bias is not None:
        made = made + (bias.const.double().cpu() if bias.const is not None else torch.nan)
    axes = [None] * len(shape)
    return Value(shape, (*axes[:dim], outputs, *axes[dim + 1 :]), _along(made, dim, len(shape)))


def _batch(graph: Graph, values: list[Value], shape: tuple[int, ...]) -> tuple[Tensor | None, ...]:
    """The axes before the last two, which the operands share."""
    outer = [Value(value.shape[:-2], value.axes[:-2]) for value in values]
    return graph.agree(outer, shape[:-2], "it meets the model's input or another tensor of a fixed size")


def _mixed(right: Value) -> Tensor | None:
    """Zeros that stay so whatever they are summed with, as values of a head whose rows are zero."""
    const = only_zeros(right.const)
    return const if const is not None and const.shape[-2] == 1 else None


def _along(known: Tensor, dim: int, dims: int) -> Tensor | None:
    shape = [1] * dims
    shape[dim] = len(known)
    return None if bool(known.isnan().all()) else known.reshape(shape)


RULES: dict[str, Rule] = {
    "linear": linear,
    "addmm": addmm,
    **dict.fromkeys(("mm", "matmul", "bmm"), matmul),
    "scaled_dot_product_attention": attention,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), transposed_convolution),
}
