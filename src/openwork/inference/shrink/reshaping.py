"""Operations that move elements without computing: views, permutations, slices, concatenations."""

import math
from typing import Any

import torch
from torch import Tensor, fx

from openwork.inference.shrink.graph import Graph, Heads, Rule, opaque, shapes
from openwork.inference.shrink.values import Value


def view(graph: Graph, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """The same elements in another shape. Of a dimension that becomes several, one keeps the units: of heads."""
    x: Value = arguments["self"]
    shape = shapes(node)
    axes: list[Tensor | None] = [None] * len(shape)
    for before, after in groups(x.shape, shape):
        named = [dim for dim in before if x.axes[dim] is not None]
        if named and not _refused(graph, node, [x.axes[dim] for dim in named]):
            for dim in named[1:]:
                graph.units.pin(x.axes[dim], "a reshape mixes it with other units")
            dim, ids = _regrouped(x, before, named[0], [shape[place] for place in after])
            moved = ids.movedim(dim, 0).reshape(ids.shape[dim], -1)
            graph.units.unify(moved[:, :1].expand_as(moved), moved)
            axes[after[dim]] = moved[:, 0].contiguous()
            if len(before) == 1:
                graph.heads.append(Heads(_module(node), moved[:, 0].contiguous(), moved.shape[1]))
    return Value(shape, tuple(axes), _viewed(x, shape))


def groups(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of dimensions that hold the same elements before and after."""
    found, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        own: tuple[list[int], list[int]] = ([], [])
        sizes = [1, 1]
        while True:
            if i < len(before) and (not own[0] or sizes[0] < sizes[1] or j >= len(after)):
                own[0].append(i)
                sizes[0] *= before[i]
                i += 1
            elif j < len(after) and (not own[1] or sizes[1] < sizes[0] or i >= len(before)):
                own[1].append(j)
                sizes[1] *= after[j]
                j += 1
            if sizes[0] == sizes[1] and ((own[0] and own[1]) or (i >= len(before) and j >= len(after))):
                break
        found.append(own)
    return found


def squeeze(graph: Graph, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """The dimensions of size 1 gone: those that are named, or whichever there are, so that none may become one."""
    if arguments.get("dim") is None:
        graph.pin(arguments["self"], "the code squeezes every dimension of size 1")
    return view(graph, node, arguments)


def permute(graph: Graph, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """The dimensions in another order."""
    x: Value = arguments["self"]
    order = list(range(len(x.shape)))
    if "dims" in arguments:
        order = [dim % len(x.shape) for dim in arguments["dims"]]
    elif len(x.shape) > 1:
        first, second = arguments.get("dim0", 0), arguments.get("dim1", 1)
        order[first], order[second] = order[second], order[first]
    const = x.const.permute(order) if x.const is not None else None
    return Value(shapes(node), tuple(x.axes[dim] for dim in order), const)


def expand(graph: Graph, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Dimensions of size 1 repeated, and new ones before."""
    x: Value = arguments["self"]
    shape = shapes(node)
    new = len(shape) - len(x.shape)
    axes = [None if size != x.shape[dim] else x.axes[dim] for dim, size in enumerate(shape[new:])]
    const = x.const.reshape((1,) * new + x.const.shape) if x.const is not None else None
    return Value(shape, (*(None,) * new, *axes), const)


def slice_(graph: Graph, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Some positions of a dimension, which the code counts."""
    x: Value = arguments["self"]
    dim, shape = arguments["dim"] % len(x.shape), shapes(node)
    if shape == x.shape:
        return Value(shape, x.axes, x.const)
    index = slice(arguments["start"], arguments["end"], arguments["step"])
    graph.units.pin(x.axes[dim], "the code slices it at places that it counts itself")
    return indexed(x, dim, torch.arange(x.shape[dim], device="cpu")[index])


def select(graph: Graph, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """One position of a dimension, which the code counts."""
    x: Value = arguments["self"]
    dim = arguments["dim"] % len(x.shape)
    graph.units.pin(x.axes[dim], "the code selects a place that it counts itself")
    one = indexed(x, dim, torch.tensor([arguments["index"] % x.shape[dim]], device="cpu"))
    const = one.const.squeeze(dim) if one.const is not None else None
    return Value(shapes(node), (*one.axes[:dim], *one.axes[dim + 1 :]), const)


def split(graph: Graph, node: fx.Node, arguments: dict[str, Any]) -> list[Value] | Any:
    """A dimension in pieces, whose units stay where the code counts them itself."""
    x: Value = arguments["self"]
    dim = arguments["dim"] % len(x.shape)
    if _refused(graph, node, [x.axes[dim]]):
        return opaque(node)
    sizes = [shape[dim] for shape in shapes(node)]
    places = torch.split(torch.arange(x.shape[dim], device="cpu"), sizes)
    return [indexed(x, dim, place) for place in places]


def cat(graph: Graph, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Tensors one behind the other along a dimension."""
    shape = shapes(node)
    values = [value for value in arguments["tensors"] if len(value.shape) == len(shape)]
    dim = arguments["dim"] % len(shape)
    others = [Value(v.shape, (*v.axes[:dim], None, *v.axes[dim + 1 :]), None) for v in values]
    axes = list(
        graph.agree(others, shape, "it is concatenated with the model's input or another tensor of a fixed size")
    )
    axes[dim] = None
    if any(value.axes[dim] is not None for value in values):
        pieces = [value.axes[dim] for value in values]
        for number, value in enumerate(values):
            if pieces[number] is None:
                pieces[number] = graph.units.fresh(value.shape[dim])
                graph.units.pin(pieces[number], "it has a fixed size")
        axes[dim] = torch.cat([piece for piece in pieces if piece is not None])
    return Value(shape, tuple(axes), _joined(values, dim))


def pad(graph: Graph, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """A border around the last dimensions: of a value, or of what lies beside it."""
    x: Value = arguments["self"]
    widths: list[int] = arguments["pad"] if "pad" in arguments else arguments["padding"]
    axes, const = list(x.axes), x.const
    mode, value = arguments.get("mode", "constant" if "pad" in arguments else "reflect"), arguments.get("value") or 0.0
    for place in range(len(widths) // 2):
        if widths[2 * place] or widths[2 * place + 1]:
            dim = len(axes) - 1 - place
            graph.units.pin(axes[dim], "it is padded")
            axes[dim] = None
            if const is not None and const.shape[dim] > 1:
                const = None
    if mode == "constant" and const is not None:
        const = torch.where(const == value, value, torch.nan)
    return Value(shapes(node), tuple(axes), const)


def embedding(graph: Graph, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Rows of a matrix by their numbers."""
    weight, index = arguments["weight"], arguments["indices"]
    graph.units.pin(weight.axes[0], "the model's input says which rows are read")
    known = weight.known(1).reshape(*(1,) * len(index.shape), -1)
    const = known if not known.isnan().all() else None
    return Value(shapes(node), (*(None,) * len(index.shape), weight.axes[1]), const)


def getitem(graph: Graph, node: fx.Node) -> Any:
    """One of several results."""
    found = graph.value(node.args[0])
    return found[node.args[1]] if isinstance(found, list) else opaque(node)  # type: ignore[index]  # an int


def line(node: fx.Node) -> str:
    """The line of source code that an operation comes from: "model.py:12: x = x.view(-1, 800)"."""
    trace = [text.strip() for text in (node.meta.get("stack_trace") or "").strip().splitlines()]
    places = [number for number, text in enumerate(trace) if text.startswith("File ")]
    if not places:
        return node.name
    file, number = trace[places[-1]].split('"')[1], trace[places[-1]].split("line ")[1].split(",")[0]
    code = trace[places[-1] + 1] if places[-1] + 1 < len(trace) else ""
    return f"{file.rsplit('/', 1)[-1]}:{number}: {code}"


def _refused(graph: Graph, node: fx.Node, axes: list[Tensor | None]) -> bool:
    """Notes a line that reshapes units; whether it is one of those whose units stay, which are then pinned."""
    if all(ids is None for ids in axes):
        return False
    place = line(node)
    graph.reshaping_lines[place] = None
    if place in graph.refused:
        for ids in axes:
            graph.units.pin(ids, f"the code reshapes it by sizes of its own ({place})")
    return place in graph.refused


def _regrouped(x: Value, before: list[int], dim: int, sizes: list[int]) -> tuple[int, Tensor]:
    """Which of the new dimensions keeps the units of ``dim``, and the unit at each place of them."""
    ids = x.axes[dim]
    assert ids is not None
    own = [x.shape[place] for place in before]
    grid = ids.reshape([len(ids) if place == dim else 1 for place in before]).expand(own).reshape(sizes)
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        moved = grid.movedim(place, 0).reshape(sizes[place], -1)
        if bool((moved == moved[:, :1]).all()):
            return place, grid
    return next((place for place, size in enumerate(sizes) if size > 1), 0), grid


def _viewed(x: Value, shape: tuple[int, ...]) -> Tensor | None:
    if x.const is None:
        return None
    before, after = [1] * len(x.shape), [1] * len(shape)
    for own, new in groups(x.shape, shape):
        if math.prod(x.const.shape[dim] for dim in own) > 1:
            for dim in own:
                before[dim] = x.shape[dim]
            for dim in new:
                after[dim] = shape[dim]
    return x.const.expand(before).reshape(after)


def indexed(x: Value, dim: int, index: Tensor) -> Value:
    """Some places of a dimension."""
    ids, const = x.axes[dim], x.const
    if const is not None and const.shape[dim] > 1:
        const = const.index_select(dim, index.to(const.device))
    axes = (*x.axes[:dim], ids[index] if ids is not None else None, *x.axes[dim + 1 :])
    return Value((*x.shape[:dim], len(index), *x.shape[dim + 1 :]), axes, const)


def _joined(values: list[Value], dim: int) -> Tensor | None:
    pieces = []
    for value in values:
        shape = [1] * len(value.shape)
        shape[dim] = value.shape[dim]
        known = value.known(dim)
        pieces.append(known.reshape(shape))
    found = torch.cat(pieces, dim)
    return found if not found.isnan().all() else None


def _module(node: fx.Node) -> str:
    """The path of the innermost module whose code an operation comes from."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""


_VIEWS = ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "unsqueeze")
RULES: dict[str, Rule] = {
    **dict.fromkeys(_VIEWS, view),
    **dict.fromkeys(("permute", "transpose", "t", "numpy_T"), permute),
    **dict.fromkeys(("expand", "expand_as"), expand),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), split),
    **dict.fromkeys(("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad2d"), pad),
    "squeeze": squeeze,
    "slice": slice_,
    "select": select,
    "cat": cat,
    "embedding": embedding,
}
