"""Follows a graph from its inputs to its outputs, one operation after the other, by the rule for each."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx

from openwork.inference.shrink import channels, elementwise, products, reshaping
from openwork.inference.shrink.graph import Graph, Rule, opaque
from openwork.inference.shrink.trace import Traced
from openwork.inference.shrink.values import Value

_RULES: dict[str, Rule] = {**elementwise.RULES, **reshaping.RULES, **products.RULES, **channels.RULES}


def follow(
    traced: Traced,
    tensors: Mapping[str, Tensor],
    immovable: Mapping[str, str],
    refused: frozenset[str] = frozenset(),
) -> Graph:
    """The units, reads and constants of a traced model.

    Args:
        traced: Its graph.
        tensors: Its parameters and buffers by name.
        immovable: Of those that cannot change their size, the reason.
        refused: Source lines whose reshapes keep all units, and weights that keep all outputs.
    """
    graph = Graph(tensors, immovable, refused)
    for node in traced.nodes:
        if node.op == "placeholder":
            graph.values[node] = _placeholder(graph, node, traced)
        elif node.op == "call_function":
            graph.values[node] = _call(graph, node)
        elif node.op == "output":
            graph.pin(_leaves(graph.value(list(node.args))), "it is an output of the model")
        else:
            graph.values[node] = opaque(node)
    for name, reason in immovable.items():
        graph.pin(graph.parameters.get(name), reason)
    return graph


def _placeholder(graph: Graph, node: fx.Node, traced: Traced) -> Any:
    if node.name in traced.names and node.users:
        name = traced.names[node.name]
        graph.uses[name] += len(node.users)
        return graph.parameter(name)
    value = opaque(node)
    constant = traced.constants.get(node.name)
    return Value(value.shape, value.axes, constant) if constant is not None else value


def _call(graph: Graph, node: fx.Node) -> Any:
    if str(node.target) == "<built-in function getitem>":
        return reshaping.getitem(graph, node)
    schema = getattr(node.target, "_schema", None)
    if schema is None:  # a region under autocast or no_grad, which is a graph of its own
        graph.pin(_leaves(graph.value(list(node.args))), f"openwork does not look into {node.target}")
        return opaque(node)
    values = [one for one in _leaves(list(graph.arguments(node).values())) if isinstance(one, Value)]
    if not any(ids is not None for value in values for ids in value.axes) and all(v.const is None for v in values):
        return opaque(node)
    name = schema.name.split("::")[1]
    if name.startswith("_assert"):  # returns nothing
        return None
    if schema.name.startswith("aten::") and name in _RULES:
        return _RULES[name](graph, node, graph.arguments(node))
    if elementwise.is_elementwise(node.target):
        return elementwise.elementwise(graph, node, graph.arguments(node))
    graph.pin(values, f"openwork does not know what {name} does with it")
    return opaque(node)


def _leaves(found: Any) -> list[Any]:
    if isinstance(found, list | tuple):
        return [leaf for one in found for leaf in _leaves(one)]
    return list(found.values()) if isinstance(found, dict) else [found]
