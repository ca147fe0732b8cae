"""Operations that move elements without computing: where their channels lie afterwards."""

from typing import Any

import torch
from torch import fx

from openwork.inference.permute.order import Order
from openwork.inference.permute.values import Channels, Value, grid
from openwork.inference.shrink.graph import shapes
from openwork.inference.shrink.reshaping import groups


def same(order: Order, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """The same values, in other memory or of another type; dropout in evaluation."""
    value: Value = arguments["self"] if "self" in arguments else arguments["input"]
    if arguments.get("train"):  # its zeros are random, and fall on other channels
        order.fix(value)
    return value


def view(order: Order, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """The same elements in another shape: channels along one dimension may lie along several afterwards."""
    x, shape = arguments["self"], shapes(node)
    runs = groups(x.shape, shape)
    found = []
    for channels in x.channels:
        touched = [run for run in runs if set(run[0]) & set(channels.dims)]
        shared = [one for one in x.channels if any(set(run[0]) & set(one.dims) for run in touched)]
        if len(shared) > 1:
            order.separate(channels)
            continue
        before = [dim for own, _ in touched for dim in own]
        after = [dim for _, new in touched for dim in new]
        ids = channels.spread(before, [x.shape[dim] for dim in before]).reshape([shape[dim] for dim in after])
        new = grid(ids)
        if new is not None:
            found.append(Channels(tuple(after[place] for place in new.dims), new.ids))
    return Value(shape, tuple(found))


def permute(order: Order, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """The dimensions in another order."""
    x: Value = arguments["self"]
    turned = list(range(len(x.shape)))
    if "dims" in arguments:
        turned = [dim % len(x.shape) for dim in arguments["dims"]]
    elif len(x.shape) > 1:
        first, second = arguments.get("dim0", 0), arguments.get("dim1", 1)
        turned[first], turned[second] = turned[second], turned[first]
    return x.moved([turned.index(dim) for dim in range(len(turned))], shapes(node))


def expand(order: Order, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Dimensions of size 1 repeated, and new ones before."""
    x: Value = arguments["self"]
    shape = shapes(node)
    new = len(shape) - len(x.shape)
    return x.moved(range(new, len(shape)), shape)


def slice_(order: Order, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Some positions of a dimension."""
    x: Value = arguments["self"]
    dim = arguments["dim"] % len(x.shape)
    chosen = torch.arange(x.shape[dim], device="cpu")[slice(arguments["start"], arguments["end"], arguments["step"])]
    return _chosen(order, x, dim, [chosen], [shapes(node)])[0]


def select(order: Order, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """One position of a dimension, which is gone afterwards."""
    x: Value = arguments["self"]
    dim = arguments["dim"] % len(x.shape)
    one = torch.tensor([arguments["index"] % x.shape[dim]], device="cpu")
    (found,) = _chosen(order, x, dim, [one], [(*x.shape[:dim], 1, *x.shape[dim + 1 :])])
    return found.moved([place - (place > dim) for place in range(len(x.shape))], shapes(node))


def unbind(order: Order, node: fx.Node, arguments: dict[str, Any]) -> list[Value]:
    """Every position of a dimension, which is gone afterwards."""
    x: Value = arguments["self"]
    dim = arguments["dim"] % len(x.shape)
    one = (*x.shape[:dim], 1, *x.shape[dim + 1 :])
    found = _chosen(order, x, dim, torch.split(torch.arange(x.shape[dim], device="cpu"), 1), [one] * x.shape[dim])
    places = [place - (place > dim) for place in range(len(x.shape))]
    return [value.moved(places, shape) for value, shape in zip(found, shapes(node), strict=True)]


def split(order: Order, node: fx.Node, arguments: dict[str, Any]) -> list[Value]:
    """A dimension in pieces."""
    x: Value = arguments["self"]
    dim = arguments["dim"] % len(x.shape)
    sizes = [shape[dim] for shape in shapes(node)]
    return _chosen(order, x, dim, torch.split(torch.arange(x.shape[dim], device="cpu"), sizes), shapes(node))


def halves(order: Order, x: Value, dim: int) -> list[Value]:
    """A dimension in two halves."""
    dim %= len(x.shape)
    shape = (*x.shape[:dim], x.shape[dim] // 2, *x.shape[dim + 1 :])
    return _chosen(order, x, dim, torch.arange(x.shape[dim], device="cpu").chunk(2), [shape] * 2)


def cat(order: Order, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Tensors one behind the other along a dimension."""
    shape = shapes(node)
    values = [value for value in arguments["tensors"] if len(value.shape) == len(shape)]
    dim = arguments["dim"] % len(shape)
    pieces = [value.along(dim) for value in values]
    beside = [
        Value(
            tuple(1 if place == dim else size for place, size in enumerate(value.shape)),
            tuple(one for one in value.channels if dim not in one.dims),
        )
        for value in values
    ]
    found = order.meet(beside, shape).channels
    named = [piece for piece in pieces if piece is not None]
    alike = len(named) == len(pieces) and len({piece.dims for piece in named}) == 1
    if not alike:
        order.fix(named)
        return Value(shape, found)
    place = named[0].dims.index(dim)
    joined = Channels(named[0].dims, torch.cat([piece.ids for piece in named], place))
    return Value(shape, (*(one for one in found if not set(one.dims) & set(joined.dims)), joined))


def pad(order: Order, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """A border around the last dimensions."""
    x: Value = arguments["self"]
    shape = shapes(node)
    padded = {dim for dim, size in enumerate(shape) if size != x.shape[dim]}
    order.fix([one for one in x.channels if padded & set(one.dims)])
    return Value(shape, tuple(one for one in x.channels if not padded & set(one.dims)))


def embedding(order: Order, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Rows of a matrix by their numbers, which the model's input says."""
    weight, shape = arguments["weight"], shapes(node)
    order.fix([one for one in weight.channels if one.dims == (0,)])
    features = weight.along(1)
    return Value(shape, (Channels((len(shape) - 1,), features.ids),) if features is not None else ())


def _chosen(order: Order, x: Value, dim: int, pieces: Any, shapes: Any) -> list[Value]:
    """Pieces of a tensor along a dimension. Channels stay in their piece."""
    own = x.along(dim)
    others = tuple(one for one in x.channels if dim not in one.dims)
    if own is None or all(len(piece) == x.shape[dim] for piece in pieces):
        return [Value(tuple(shape), x.channels) for shape in shapes]
    place = own.dims.index(dim)
    where = torch.full((x.shape[dim],), len(pieces), device="cpu")
    for number, piece in enumerate(pieces):
        where[piece] = number
    order.keep_apart(own.ids.movedim(place, -1), where.expand(own.ids.movedim(place, -1).shape))
    found = []
    for piece, shape in zip(pieces, shapes, strict=True):
        new = grid(own.ids.index_select(place, piece))
        channels = () if new is None else (Channels(tuple(own.dims[one] for one in new.dims), new.ids),)
        found.append(Value(tuple(shape), (*others, *channels)))
    return found


_VIEWS = ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "unsqueeze", "squeeze")
_COPIES = ("clone", "_to_copy", "alias", "detach", "contiguous", "lift_fresh_copy", "lift_fresh", "to", "dropout")
RULES: dict[str, Any] = {
    **dict.fromkeys(_COPIES, same),
    **dict.fromkeys(_VIEWS, view),
    **dict.fromkeys(("permute", "transpose", "t", "numpy_T"), permute),
    **dict.fromkeys(("expand", "expand_as"), expand),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), split),
    **dict.fromkeys(("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad2d"), pad),
    "unbind": unbind,
    "slice": slice_,
    "select": select,
    "cat": cat,
    "embedding": embedding,
}
