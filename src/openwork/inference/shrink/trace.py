"""The model's operations on an example, as `torch.export` finds them: a graph without writes in place."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import torch
from torch import Tensor, fx, nn

from openwork.core.forward import arguments_of, call, copied, first_line, plain_attention
from openwork.inference.models import tensors_of


@dataclass(frozen=True)
class Traced:
    """A model's graph.

    Args:
        nodes: Its operations, in their order.
        names: The parameter or buffer that a placeholder stands for, by the placeholder's name.
        constants: Tensors that the code made itself, by the placeholder's name.
    """

    nodes: list[fx.Node]
    names: dict[str, str]
    constants: dict[str, Tensor]

    def with_one_name(self, tensors: Mapping[str, Tensor]) -> "Traced":
        """The same with one of the names where a tensor has several, as tied ones have."""
        first: dict[int, str] = {}
        for name, tensor in tensors.items():
            first.setdefault(id(tensor), name)
        names = {place: first[id(tensors[name])] for place, name in self.names.items() if name in tensors}
        return Traced(self.nodes, names, self.constants)


def outputs(model: nn.Module, example: Any) -> list[Tensor]:
    """The tensors that the model returns for the example, without autograd.

    Raises:
        ValueError: If the example does not fit the model.
    """
    try:
        with torch.no_grad(), plain_attention():
            found = call(model, copied(example))
    except Exception as error:
        raise ValueError(
            f"the model does not take this example, it raises {_brief(error)}; pass an input that model(example) "
            "takes, a tuple of its arguments or a mapping of its keyword arguments"
        ) from error
    return tensors_of(found)


def trace(model: nn.Module, example: Any, verb: str = "shrink") -> Traced:
    """The graph of ``model(example)``; the model is in evaluation mode.

    Args:
        model: The model.
        example: Its input.
        verb: What is to be done with it.

    Raises:
        ValueError: If the operations depend on more than shapes, or cannot be followed.
    """
    arguments, keywords = arguments_of(example)
    try:
        with torch.no_grad(), plain_attention(), _silently():
            program = torch.export.export(model, arguments, keywords, strict=False).run_decompositions({})
    except Exception as error:
        raise ValueError(
            f"torch.export cannot follow this model's forward, so nothing is proven about its units: {_brief(error)}; "
            f"{verb} the parts of the model that it can follow"
        ) from error
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants = {place: program.constants[name] for place, name in signature.inputs_to_lifted_tensor_constants.items()}
    return Traced(list(program.graph.nodes), names, constants)


def operands_of(node: fx.Node) -> dict[str, Any]:
    """What an operation is called with, by the names of its schema; defaults included."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]  # an OpOverload
    found = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    found |= {argument.name: given for argument, given in zip(schema, node.args, strict=False)}
    return found | dict(node.kwargs)


class Following:
    """What following the nodes of a graph has found; the base of all that do."""

    values: dict[fx.Node, Any]

    def value(self, argument: Any) -> Any:
        """The value of a node, or what else an operation is called with."""
        if isinstance(argument, fx.Node):
            return self.values.get(argument)
        if isinstance(argument, list | tuple):
            return [self.value(one) for one in argument]
        return argument

    def arguments(self, node: fx.Node) -> dict[str, Any]:
        """What the operation is called with, by the names of its schema; defaults included."""
        return {name: self.value(given) for name, given in operands_of(node).items()}


@contextmanager
def _silently() -> Iterator[None]:
    """Without the warnings and graphs that torch.export prints where it fails: the error says it in a sentence."""
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    before = logger.level
    try:
        logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
