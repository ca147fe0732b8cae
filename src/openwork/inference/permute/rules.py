"""What each operation demands of the order of channels: one rule for each; of others all channels stay."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from openwork.inference.permute import moving
from openwork.inference.permute.order import Order
from openwork.inference.permute.values import Channels, Value
from openwork.inference.shrink.elementwise import is_elementwise
from openwork.inference.shrink.graph import shapes
from openwork.inference.shrink.trace import Traced

Rule = Callable[[Order, fx.Node, dict[str, Any]], Any]


def follow(traced: Traced, tensors: Mapping[str, Tensor]) -> Order:
    """Which channels of a traced model may change places."""
    order = Order(tensors)
    for node in traced.nodes:
        if node.op == "placeholder" and node.name in traced.names and node.users:
            order.values[node] = order.parameter(traced.names[node.name])
        elif node.op == "call_function":
            order.values[node] = _call(order, node)
        elif node.op == "output":
            order.fix(order.value(list(node.args)))
        else:
            order.values[node] = opaque(node)
    return order


def opaque(node: fx.Node) -> Any:
    """A result without channels."""
    found = shapes(node)
    if isinstance(found, list):
        return [Value(shape) if shape is not None else None for shape in found]
    return Value(found) if found is not None else None


def _call(order: Order, node: fx.Node) -> Any:
    if str(node.target) == "<built-in function getitem>":
        found = order.value(node.args[0])
        return found[node.args[1]] if isinstance(found, list) else opaque(node)  # type: ignore[index]  # an int
    schema = getattr(node.target, "_schema", None)
    if schema is None:  # a region under autocast or no_grad, which is a graph of its own
        order.fix(order.value(list(node.args)))
        return opaque(node)
    arguments = order.arguments(node)
    if not any(value.channels for value in _values(list(arguments.values()))):
        return opaque(node)
    name = schema.name.removeprefix("aten::")
    if name.startswith(("_assert", "sym_size", "sym_numel")):  # looks at shapes and types alone
        return None
    rule = RULES.get(name)
    if rule is None and is_elementwise(node.target):
        rule = elementwise
    if rule is None:
        order.fix(list(arguments.values()))
        return opaque(node)
    return rule(order, node, arguments)


def _values(found: Any) -> list[Value]:
    if isinstance(found, list | tuple):
        return [value for one in found for value in _values(one)]
    return [found] if isinstance(found, Value) else []


def elementwise(order: Order, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Tensors of broadcastable shapes: sums, products, activations."""
    return order.meet(_values(list(arguments.values())), shapes(node))


def linear(order: Order, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """X Wᵀ + b."""
    x, weight, shape = arguments["input"], arguments["weight"], shapes(node)
    return _plus(order, _product(order, x, _turned(weight), shape), arguments["bias"])


def addmm(order: Order, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """B + x W, as the Conv1D of transformers computes."""
    return _plus(order, _product(order, arguments["mat1"], arguments["mat2"], shapes(node)), arguments["self"])


def matmul(order: Order, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """The product of two matrices, or of many."""
    other = arguments["other"] if "other" in arguments else arguments["mat2"]
    return _product(order, arguments["self"], other, shapes(node))


def attention(order: Order, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Softmax(q kᵀ · scale + mask) v for each head."""
    query, key, value, mask = (arguments[name] for name in ("query", "key", "value", "attn_mask"))
    batch = query.shape[:-2]
    if any(one.shape[:-2] != batch for one in (key, value)):
        order.fix([query, key, value, mask])
        return Value(shapes(node))
    scores = order.multiply(query, _turned(key), (*batch, query.shape[-2], key.shape[-2]))
    return order.multiply(_plus(order, scores, mask), value, shapes(node))


def convolution(order: Order, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """A convolution. With groups, outputs change places within their group; depthwise, with their inputs."""
    x, weight, shape, groups = arguments["input"], arguments["weight"], shapes(node), arguments["groups"]
    transposed = "transpose" in str(node.target)
    dims = (1, 0) if transposed else (0, 1)
    came, reads, made = x.along(1), weight.along(dims[1]), weight.along(dims[0])
    order.fix([one for one in weight.channels if one.dims[0] > 1])
    order.fix([one for one in x.channels if one.dims != (1,)])
    if len(x.shape) != len(weight.shape) or (transposed and groups > 1):
        order.fix([x, weight, arguments["bias"]])
        return Value(shape)
    if groups == 1:
        _tie(order, came if came is not None and came.dims == (1,) else None, reads)
    elif groups == x.shape[1] == weight.shape[0]:
        _tie(order, came, made)
    else:
        order.fix([x, reads])
        if made is not None:
            order.keep_apart(made.ids, torch.arange(len(made.ids), device="cpu") // (len(made.ids) // groups))
    outputs = (Channels((1,), made.ids),) if made is not None else ()
    return _plus(order, Value(shape, outputs), arguments["bias"], dim=1)


def norm_of_channels(order: Order, node: fx.Node, arguments: dict[str, Any]) -> Any:
    """A batch norm, which treats each channel alone, or a group norm, which takes the means of groups of them."""
    x, groups = arguments["input"], arguments.get("num_groups", arguments.get("group"))
    found, own = Value(x.shape, x.channels), x.along(1)
    if groups is not None and own is not None:
        order.separate(own, [dim for dim in own.dims if dim != 1])
        order.keep_apart(own.ids.movedim(own.dims.index(1), -1), _group_of(own, x.shape[1], groups))
    for name in ("weight", "bias", "running_mean", "running_var"):
        found = _plus(order, found, arguments.get(name), dim=1)
    others = shapes(node)
    return [found, *(None for _ in others[1:])] if isinstance(others, list) else found


def norm_of_features(order: Order, node: fx.Node, arguments: dict[str, Any]) -> Any:
    """A layer norm or RMS norm: means over the last dimensions, which are the same in any order."""
    x, others = arguments["input"], shapes(node)
    first = len(x.shape) - len(arguments["normalized_shape"])
    _apart_along(order, x, range(first, len(x.shape)))
    found = order.meet([x, arguments.get("weight"), arguments.get("bias")], x.shape)
    return [found, *(None for _ in others[1:])] if isinstance(others, list) else found


def softmax(order: Order, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Sums over one dimension."""
    x = arguments["self"]
    _apart_along(order, x, [arguments["dim"] % len(x.shape)])
    return Value(x.shape, x.channels)


def reduction(order: Order, node: fx.Node, arguments: dict[str, Any]) -> Any:
    """One number instead of a dimension: mean, sum, largest."""
    x, given, shape = arguments["self"], arguments.get("dim"), shapes(node)
    if isinstance(shape, list):  # with the places of the largest
        order.fix(x)
        return opaque(node)
    every = range(len(x.shape))
    dims = {dim % len(x.shape) for dim in ([given] if isinstance(given, int) else given or every)} if x.shape else set()
    _apart_along(order, x, dims)
    kept = [dim for dim in every if dim not in dims or arguments.get("keepdim")]
    places = [kept.index(dim) if dim in kept else -1 for dim in every]
    return Value(shape, tuple(one.moved(places) for one in x.channels if not dims & set(one.dims)))


def pooling(order: Order, node: fx.Node, arguments: dict[str, Any]) -> Any:
    """The largest or the mean value of neighbouring places, for each channel."""
    x: Value = arguments["self"] if "self" in arguments else arguments["input"]
    found = shapes(node)
    shape = found[0] if isinstance(found, list) else found
    spatial = next(count for count in (1, 2, 3) if f"{count}d" in str(node.target))
    first = len(x.shape) - spatial
    order.fix([one for one in x.channels if max(one.dims) >= first])
    result = Value(shape, tuple(one for one in x.channels if max(one.dims) < first))
    return [result, None] if isinstance(found, list) else result


def glu(order: Order, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """One half of a dimension, multiplied by the sigmoid of the other."""
    return order.meet(moving.halves(order, arguments["self"], arguments.get("dim", -1)), shapes(node))


def prelu(order: Order, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """A slope for each channel, the second dimension, or one for all."""
    return _plus(order, arguments["self"], arguments["weight"], dim=1)


def _product(order: Order, left: Value, right: Value, shape: tuple[int, ...]) -> Value:
    if min(len(left.shape), len(right.shape)) < 2:
        order.fix([left, right])
        return Value(shape)
    return order.multiply(left, right, shape)


def _turned(value: Value) -> Value:
    """A matrix, or many, transposed."""
    last = len(value.shape) - 1
    return value.moved([*range(last - 1), last, last - 1], (*value.shape[:-2], value.shape[-1], value.shape[-2]))


def _plus(order: Order, found: Value, vector: Value | None, dim: int | None = None) -> Value:
    """The result where a tensor meets what broadcasts to it; a vector lies along ``dim``, by default the last one."""
    if vector is None:
        return found
    if dim is not None and len(vector.shape) == 1:
        shape = (*vector.shape, *(1,) * (len(found.shape) - dim - 1))
        vector = vector.moved([0], shape)
    return order.meet([found, vector], found.shape)


def _tie(order: Order, one: Channels | None, two: Channels | None) -> None:
    if one is not None and two is not None and one.ids.shape == two.ids.shape:
        order.unify(one.ids, two.ids)
    else:
        order.fix([one, two])


def _apart_along(order: Order, x: Value, dims: Any) -> None:
    """Keeps channels apart where they lie along some of ``dims``, over which is summed, and along others too."""
    for one in x.channels:
        if set(one.dims) & set(dims):
            order.separate(one, [dim for dim in one.dims if dim not in dims])


def _group_of(channels: Channels, count: int, groups: int) -> Tensor:
    sizes = [size for dim, size in zip(channels.dims, channels.ids.shape, strict=True) if dim != 1]
    return (torch.arange(count, device="cpu") // (count // groups)).expand(*sizes, count)


_POOLS = [f"{kind}_pool{dims}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for dims in (1, 2, 3)]
_POOLS += [f"_adaptive_avg_pool{dims}d" for dims in (2, 3)] + [f"max_pool{dims}d_with_indices" for dims in (2, 3)]
_POOLS += [f"upsample_{how}" for how in ("nearest1d", "nearest2d", "nearest3d", "bilinear2d")]
_CONVOLUTIONS = [f"conv{kind}{dims}d" for kind in ("", "_transpose") for dims in (1, 2, 3)]
_NORMS = ("batch_norm", "_native_batch_norm_legit_no_training", "group_norm", "native_group_norm")
RULES: dict[str, Rule] = {
    **moving.RULES,
    **dict.fromkeys(("hardswish", "log_sigmoid", "where"), elementwise),  # not all of their overloads say so
    "linear": linear,
    "addmm": addmm,
    **dict.fromkeys(("mm", "matmul", "bmm"), matmul),
    "scaled_dot_product_attention": attention,
    **dict.fromkeys(_CONVOLUTIONS, convolution),
    **dict.fromkeys(_NORMS, norm_of_channels),
    **dict.fromkeys(("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm"), norm_of_features),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax"), softmax),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "max", "min", "var", "std"), reduction),
    **dict.fromkeys(_POOLS, pooling),
    **dict.fromkeys(("prelu", "_prelu_kernel"), prelu),
    "glu": glu,
}
