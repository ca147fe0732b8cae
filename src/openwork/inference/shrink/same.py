"""Whether a smaller model runs the same operations as the model before, but for sizes.

A size that code reads becomes a number in the graph: ``x / x.shape[1]`` is a division by 6. In the smaller model it is
a division by 4, which no rule for operations can see.
"""

from typing import Any

from torch import fx

from openwork.inference.shrink.trace import Traced, operands_of

_VIEWS = {"view", "reshape", "_unsafe_view"}
# These take sizes, or how many groups there are; what follows from them are shapes, which must fit anyway.
_TAKES_SIZES = {"expand", "split", "split_with_sizes", "chunk", *(f"conv{dims}d" for dims in (1, 2, 3)), *_VIEWS}
_COPIES = {"clone", "contiguous", "alias"}  # how a tensor lies in memory depends on its sizes


def same_operations(before: Traced, now: Traced) -> bool:
    """Whether the graphs have the same operations on the same operands, with the same numbers where none is a size."""
    nodes, others = ([node for node in traced.nodes if _name(node) not in _COPIES] for traced in (before, now))
    twin: dict[fx.Node, fx.Node] = {}
    for one, other in zip(nodes, others, strict=False):
        name = _name(one)
        if one.op != other.op or name != _name(other):
            return False
        if not _same(_operands(one), _operands(other), twin, sizes=name in _TAKES_SIZES):
            return False
        twin[one] = other
    return len(nodes) == len(others)


def _name(node: fx.Node) -> str:
    """The operation's name; all ways to view a tensor have one."""
    if node.op != "call_function":
        return node.op
    name = getattr(getattr(node.target, "overloadpacket", None), "__name__", str(node.target))
    return "view" if name in _VIEWS else name


def _operands(node: fx.Node) -> Any:
    return operands_of(node) if hasattr(node.target, "_schema") else [node.args, node.kwargs]


def _same(one: Any, other: Any, twin: dict[fx.Node, fx.Node], *, sizes: bool) -> bool:
    if isinstance(one, fx.Node):
        return isinstance(other, fx.Node) and twin.get(_source(one)) is _source(other)
    if isinstance(one, list | tuple):
        fits = isinstance(other, list | tuple) and (len(one) == len(other) or sizes)
        return fits and all(_same(a, b, twin, sizes=sizes) for a, b in zip(one, other, strict=False))
    if isinstance(one, dict):
        return all(_same(given, other.get(key), twin, sizes=sizes) for key, given in one.items() if key != "size")
    if sizes and isinstance(one, int) and isinstance(other, int):
        return True
    return type(one) is type(other) and bool(one == other)


def _source(node: fx.Node) -> fx.Node:
    """What a copy is a copy of."""
    while _name(node) in _COPIES and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node
