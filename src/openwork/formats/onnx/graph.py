"""The ONNX graph of a model, and one sentence for each reason why there is none."""

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from openwork.core.forward import first_line
from openwork.formats.onnx.example import Example

_LOGGERS = (
    "torch.onnx._internal.exporter._registration",
    "torch.onnx._internal.exporter._core",
    "torch.fx.experimental.symbolic_shapes",
    "onnxscript",
    "onnx_ir",
)
_OTHERS = [Path(torch.__file__).parent, Path(__file__).parent, Path(os.__file__).parent]


def graph_of(model: nn.Module, example: Example) -> Any:
    """The torch.onnx.ONNXProgram of ``model``, which is in evaluation mode.

    Args:
        model: The model; its forward is traced by torch.export.
        example: Its input.

    Raises:
        ValueError: If the model does not run on the example, its forward cannot be followed or fixes an axis that is
            to vary, or ONNX has no operator for something.
    """
    try:
        outputs = example.run(model)
    except Exception as error:
        raise ValueError(
            f"{type(model).__name__} does not run on the example: {first_line(error)}; give what its forward takes"
        ) from error
    if others := {type(leaf).__name__ for leaf in pytree.tree_leaves(outputs)} - {"Tensor", "NoneType"}:
        raise ValueError(
            f"the forward of {type(model).__name__} returns {', '.join(sorted(others))} beside tensors; export a "
            "module that returns the tensors alone"
        )
    tensors = [leaf for leaf in pytree.tree_leaves(outputs) if leaf is not None]
    if not tensors or any(tensor.is_complex() for tensor in tensors):
        what = "complex numbers, which ONNX does not have" if tensors else "no tensor"
        raise ValueError(
            f"the forward of {type(model).__name__} returns {what}; export a module that returns real tensors"
        )
    traced = example.traced()
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")  # of torch's own workings
        captured = _captured(model, traced)
        names = _axis_names(captured, model, traced)
        try:
            program = torch.onnx.export(
                captured,
                (),
                dynamo=True,
                verbose=False,
                dynamic_shapes=names,
                output_names=_output_names(outputs, captured),
            )
        except Exception as error:
            raise ValueError(_untranslated(model, error)) from error
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces: longer than small models, with paths of this machine
    return program


def _captured(model: nn.Module, example: Example) -> torch.export.ExportedProgram:
    """The forward as torch.export follows it."""
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode  # brings sympy

    vary = torch.export.Dim.DYNAMIC
    shapes = example.bound(model, lambda tensor: dict.fromkeys(example.axes(tensor), vary))
    try:
        with torch.no_grad(), redirect_stderr(StringIO()):  # it prints graphs that it gives up
            return torch.export.export(model, example.arguments, example.keywords, dynamic_shapes=shapes, strict=False)
    except GuardOnDataDependentSymNode as error:
        raise ValueError(
            f"the forward of {type(model).__name__} decides by the values of its input{_place(error)}, which a graph "
            "cannot; export the part of the model without that decision"
        ) from error
    except Exception as error:
        fixed = re.search(r"size\(\)\[(\d+)\].*?(?:constant \((\d+)\)|$)", str(error), re.S)
        if fixed and "Constraints violated" in str(error):
            axis = int(fixed[1])
            name = example.dynamic.get(axis, "")
            raise ValueError(
                f"the forward of {type(model).__name__} fixes axis {axis}, {name!r}, of its input"
                f"{f' at {fixed[2]}' if fixed[2] else ''}; write it for any size, or leave that axis out of dynamic"
            ) from error
        raise ValueError(
            f"torch.export cannot follow the forward of {type(model).__name__}: {first_line(error)}{_place(error)}; "
            "change that line, or export the part of the model without it"
        ) from error


def _axis_names(captured: torch.export.ExportedProgram, model: nn.Module, example: Example) -> dict[str, Any]:
    """The names of the axes that vary, as torch.onnx takes them.

    Axes of one name that torch did not find to be equal have different names in the file: onnxruntime believes names.
    """
    inputs = iter([node for node in captured.graph.nodes if node.name in captured.graph_signature.user_inputs])
    taken: dict[str, str] = {}

    def named(tensor: torch.Tensor) -> dict[int, str]:
        node = next(inputs)
        found = {}
        for axis, wanted in example.axes(tensor).items():
            symbol = str(node.meta["val"].shape[axis])
            free = wanted if wanted not in taken.values() else f"{node.name}_{wanted}"
            found[axis] = taken.setdefault(symbol, free)
        return found

    return example.bound(model, named)


def _output_names(outputs: Any, captured: torch.export.ExportedProgram) -> list[str] | None:
    """Names by the places of the outputs: "output", "output_1", "last_hidden_state"; None leaves it to torch."""
    paths = [path for path, leaf in pytree.tree_flatten_with_path(outputs)[0] if leaf is not None]
    names = ["_".join(["output", *map(_key, path)]) for path in paths]
    names = [name.removeprefix("output_") if re.match(r"output_[^\d]", name) else name for name in names]
    inputs = captured.graph_signature.user_inputs
    names = [f"{name}_output" if name in inputs else name for name in names]
    count = sum(output is not None for output in captured.graph_signature.user_outputs)
    return names if len(names) == count and len(set(names)) == count else None


def _key(part: Any) -> str:
    """The name or number of a step into nested outputs."""
    return re.sub(r"\W+", "_", str(part)).strip("_")


def _untranslated(model: nn.Module, error: Exception) -> str:
    """What the exporter's error says, in a sentence."""
    text = "\n".join(str(one) for one in _chain(error))
    operator = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", text)
    if not operator:
        return f"torch.onnx cannot translate {type(model).__name__}: {first_line(_chain(error)[-1])}; try a newer torch"
    cure = "export it before accelerate" if operator[1].startswith("openwork") else "compute that part with others"
    return f"ONNX has no operator for {operator[1]}, which {type(model).__name__} uses; {cure}"


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what caused it."""
    found = [error]
    while (cause := found[-1].__cause__) is not None:
        found.append(cause)
    return found


def _place(error: Exception) -> str:
    """The last line of code that is neither torch's nor Python's, which is the user's."""
    found, traceback = "", error.__traceback__
    while traceback:
        name = traceback.tb_frame.f_code.co_filename
        if not name.startswith("<") and not any(Path(name).is_relative_to(folder) for folder in _OTHERS):
            found = f" ({name}, line {traceback.tb_lineno})"
        traceback = traceback.tb_next
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that torch's exporter logs about what it does not need."""
    before = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in before:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
