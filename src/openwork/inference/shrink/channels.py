"""Operations that keep the channels apart, and those that mix them: norms, poolings, means, softmax."""

from typing import Any

import torch
from torch import Tensor, fx

from openwork.inference.shrink.graph import Graph, Rule, opaque, shapes
from openwork.inference.shrink.values import Value, only_zeros


def batch_norm(graph: Graph, node: fx.Node, arguments: dict[str, Any]) -> Any:
    """(x - mean) / sqrt(variance + eps) * weight + bias for each channel, with the statistics that are kept."""
    x = arguments["input"]
    own = {key: arguments.get(key) for key in ("weight", "bias", "running_mean", "running_var")}
    if own["running_mean"] is None or own["running_var"] is None:
        graph.pin([x, *own.values()], "a batch norm without running statistics depends on the batch")
        return opaque(node)
    ids, vectors = x.axes[1], [value for value in own.values() if value is not None]
    axis = graph.agree([Value((x.shape[1],), (ids,)), *vectors], (x.shape[1],), "a batch norm")[0]
    known = x.known(1)
    weight, bias, mean, variance = (
        value.const.double().cpu() if value is not None and value.const is not None else None for value in own.values()
    )
    if any(value.const is None for value in vectors) or mean is None or variance is None:
        made = torch.full_like(known, torch.nan)
    else:
        scale = (1 if weight is None else weight) / torch.sqrt(variance + arguments["eps"])
        # Where the scale is 0, the result is the bias, whatever comes in.
        shift = 0 if bias is None else bias
        made = torch.where(scale == 0, shift + torch.zeros_like(mean), (known - mean) * scale + shift)
    result = Value(x.shape, (x.axes[0], axis, *x.axes[2:]), _channel(made, len(x.shape)))
    return [result, None, None] if isinstance(shapes(node), list) else result


def mixing_norm(graph: Graph, node: fx.Node, arguments: dict[str, Any]) -> Any:
    """A norm over features, which all depend on how many there are."""
    x = arguments["input"]
    count = len(arguments["normalized_shape"])
    kind = "an RMS norm" if "rms" in str(node.target) else "a layer norm"
    reason = f"{kind} takes the mean over it"
    for ids in x.axes[len(x.axes) - count :]:
        graph.units.pin(ids, reason)
    vectors = [value for value in (arguments.get("weight"), arguments.get("bias")) if value is not None]
    graph.pin(vectors, reason)
    result = Value(x.shape, x.axes)
    others = shapes(node)
    return [result, *(None for _ in others[1:])] if isinstance(others, list) else result


def group_norm(graph: Graph, node: fx.Node, arguments: dict[str, Any]) -> Any:
    """A norm over groups of channels, whose number divides theirs."""
    graph.pin(list(arguments.values()), "a group norm takes the mean over it")
    return opaque(node)


def softmax(graph: Graph, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Sums over one dimension."""
    x = arguments["self"]
    graph.units.pin(x.axes[arguments["dim"]], "a softmax sums over it")
    return Value(x.shape, x.axes)


def reduction(graph: Graph, node: fx.Node, arguments: dict[str, Any]) -> Any:
    """One number instead of a dimension: mean, sum, largest."""
    x, given = arguments["self"], arguments.get("dim")
    every = range(len(x.shape))
    dims = {dim % len(x.shape) for dim in ([given] if isinstance(given, int) else given or every)} if x.shape else set()
    name = node.target._schema.name.split("::")[1]  # type: ignore[union-attr]  # an OpOverload
    for dim in dims:
        graph.units.pin(x.axes[dim], f"a {name} is taken over it")
    if isinstance(shapes(node), list):
        return opaque(node)
    keep = arguments.get("keepdim")
    const = x.const if name in ("mean", "amax", "amin") else only_zeros(x.const)
    if const is not None and any(const.shape[dim] > 1 for dim in dims):
        const = None
    axes: list[Tensor | None] = []
    for dim, ids in enumerate(x.axes):
        if dim not in dims:
            axes.append(ids)
        elif keep:
            axes.append(None)
    if const is not None and not keep:
        const = const.squeeze(tuple(dims))
    return Value(shapes(node), tuple(axes), const)


def pooling(graph: Graph, node: fx.Node, arguments: dict[str, Any]) -> Any:
    """The largest or the mean value of neighbouring places, or values between them, for each channel."""
    x: Value = arguments["self"] if "self" in arguments else arguments["input"]
    found = shapes(node)
    shape = found[0] if isinstance(found, list) else found
    name = str(node.target)
    const = x.const
    if const is not None and max(const.shape[2:], default=1) > 1:
        const = None
    axes = (*x.axes[:2], *(None,) * (len(shape) - 2))
    result = Value(shape, axes, only_zeros(const) if _averages_border(name, arguments) else const)
    if len(x.shape) != len(shape) or len(shape) < 3 or (_unbatched(name) == len(shape)):
        graph.pin(x, "it is pooled without a batch dimension")
        return opaque(node)
    return [result, None] if isinstance(found, list) else result


def _averages_border(name: str, arguments: dict[str, Any]) -> bool:
    """Whether an average takes zeros around the map in, or is divided by another number than it sums."""
    if "avg" not in name or "adaptive" in name:
        return False
    padded = any(_numbers(arguments["padding"])) and arguments["count_include_pad"]
    return bool(padded or arguments.get("divisor_override"))


def _unbatched(name: str) -> int:
    """The number of dimensions that an input without a batch has: 3 for a pooling over two."""
    return next((dims + 1 for dims in (1, 2, 3) if f"pool{dims}d" in name), 0)


def _numbers(padding: Any) -> list[int]:
    return list(padding) if isinstance(padding, list | tuple) else [padding]


def _channel(made: Tensor, dims: int) -> Tensor | None:
    return None if bool(made.isnan().all()) else made.reshape(1, -1, *(1,) * (dims - 2))


_POOLS = [f"{kind}_pool{dims}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for dims in (1, 2, 3)]
_POOLS += [f"_adaptive_avg_pool{dims}d" for dims in (2, 3)] + [f"max_pool{dims}d_with_indices" for dims in (2, 3)]
_POOLS += ["upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d"]
RULES: dict[str, Rule] = {
    **dict.fromkeys(("batch_norm", "_native_batch_norm_legit_no_training"), batch_norm),
    **dict.fromkeys(("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm"), mixing_norm),
    **dict.fromkeys(("group_norm", "native_group_norm"), group_norm),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax"), softmax),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "max", "min", "var", "std", "argmax", "argmin"), reduction),
    **dict.fromkeys(_POOLS, pooling),
}
