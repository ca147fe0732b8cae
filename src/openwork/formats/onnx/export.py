"""Writing a model as an ONNX file, which is checked in onnxruntime before it appears."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from openwork.core.chosen import check_model
from openwork.core.forward import plain_attention
from openwork.core.parameters.weight import ReparameterizedWeight
from openwork.core.snapshot import snapshot
from openwork.formats.files import temporary_prefix, writing

IN_ONE_FILE = 2**31 - 2**24
"""Bytes of weights that one file can hold: protobuf's two gigabytes, less what the graph itself needs."""

Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Exported:
    """What `export_onnx` wrote, and how it was checked.

    Args:
        path: The file.
        inputs: The shape of each input by its name, with names for the axes that may vary.
        outputs: The same of the outputs.
        parameters: The number of the model's parameters, tied ones once.
        zeros: How many of them are zero.
        nbytes: The bytes on disk, with external data.
        dense: The bytes of the parameters with every value, which is what onnxruntime holds in memory.
        difference: The largest difference to PyTorch's outputs, as a fraction of the largest output.
        tolerance: The largest that was allowed.
        checked: The sizes of the axes that may vary, for each input on which the outputs were compared.
    """

    path: Path
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    parameters: int
    zeros: int
    nbytes: int
    dense: int
    difference: float
    tolerance: float
    checked: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**vars(self), "path": str(self.path)}

    def __str__(self) -> str:
        zeros = self.zeros / self.parameters if self.parameters else 0.0
        return (
            f"{self.path}: {self.nbytes:,} bytes; the parameters take {self.dense:,} dense, and {zeros:.2%} of "
            f"{self.parameters:,} are zero\nonnxruntime computes with zeros as with other numbers: it is not faster, "
            f"and holds the dense bytes in memory\noutputs equal PyTorch's within {self.difference:.1e} of the largest "
            f"(allowed: {self.tolerance:.0e}), with {' and '.join(self.checked) or 'the shapes of the example'}"
        )


def export_onnx(
    model: nn.Module,
    example: Any,
    path: str | Path,
    *,
    dynamic: Mapping[int, str] | None = None,
    sparse: bool = False,
    tolerance: float = 1e-4,
) -> Exported:
    """Writes the evaluation of ``model`` as an ONNX file, and returns how it was checked.

    The file appears only once onnxruntime gave PyTorch's outputs for the example, and for the example with other sizes
    of the dynamic axes, 1 among them. Until then an older file of that name stays. The model is afterwards as it was.

    Zeros are numbers in ONNX: neither the file nor onnxruntime gains by them. What makes both smaller is to remove dead
    units before, with `shrink`. Weights of more than two gigabytes go to a second file, ``path`` + ".data".

    Args:
        model: A model whose zeros are in its parameters: finalized, shrunk, under masks, or dense.
        example: Its input: a tuple holds several arguments, a mapping keyword arguments.
        path: The file to write or to replace.
        dynamic: Which axes of the inputs may vary, and their names: ``{0: "batch"}`` where None is given,
            ``{0: "batch", 1: "tokens"}`` for token ids, ``{1: "batch"}`` for an LSTM without batch_first, ``{}`` for
            fixed shapes.
        sparse: Whether weights with more than about two thirds zeros are stored as ONNX's sparse initializers: a
            smaller file, which onnxruntime makes dense when it loads it. Not every other runtime reads them.
        tolerance: The largest difference of an output, as a fraction of the largest value of that output.

    Returns:
        The sizes, the shapes and the differences that were found.

    Raises:
        TypeError: If ``model`` is no module, or wraps the model.
        ValueError: If weights are random variables still, the example does not fit, the forward cannot be followed or
            fixes an axis, ONNX has no operator for something, or the outputs differ. Nothing is written then.
        OSError: If ``path`` cannot be written, as on a full disk.
        ImportError: If the extra is missing: ``pip install "openwork[onnx]"``.
    """
    _check_packages()
    from openwork.formats.onnx.example import Example
    from openwork.formats.onnx.graph import graph_of
    from openwork.formats.onnx.sparse import with_sparse_initializers
    from openwork.formats.onnx.verify import difference

    check_model(model)
    _check_values(model)
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more, got {tolerance}")
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"cannot write {path}; give the name of a file in a folder that exists")
    parameters = list(model.parameters())
    dense = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    if sparse and dense > IN_ONE_FILE:
        raise ValueError(f"sparse=True holds all in one file, which cannot take {dense:,} bytes; leave it out")
    taken = Example.of(example, {0: "batch"} if dynamic is None else dynamic)
    restore = snapshot(model)
    with ExitStack() as stack:
        stack.callback(restore)
        stack.enter_context(plain_attention())
        model.eval()
        program = graph_of(model, taken)
        stack.enter_context(writing(path))
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=path.parent, prefix=temporary_prefix(path)))
        temporary = Path(folder) / path.name
        if sparse:
            temporary.write_bytes(with_sparse_initializers(program.model_proto).SerializeToString())
        else:
            program.save(temporary, external_data=dense > IN_ONE_FILE)
        found = difference(model, temporary, taken, tolerance)
        written = sorted(Path(folder).iterdir(), reverse=True)  # external data first: the model needs them
        nbytes = sum(file.stat().st_size for file in written)
        for file in written:
            _flush(file)
            file.replace(path.parent / file.name)
    return Exported(
        path,
        _shapes(program.model.graph.inputs),
        _shapes(program.model.graph.outputs),
        parameters=sum(parameter.numel() for parameter in parameters),
        zeros=sum(parameter.numel() - int(parameter.count_nonzero()) for parameter in parameters),
        nbytes=nbytes,
        dense=dense,
        difference=found.largest,
        tolerance=tolerance,
        checked=found.sizes,
    )


def _shapes(values: Sequence[Any]) -> dict[str, Shape]:
    return {
        value.name: tuple(size if isinstance(size, int) else str(size.value) for size in value.shape or ())
        for value in values
    }


def _check_packages() -> None:
    try:
        for package in ("onnx", "onnxruntime", "onnxscript"):
            import_module(package)
    except ImportError as error:
        raise ImportError(f'ONNX export needs {package}: pip install "openwork[onnx]"') from error


def _check_values(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if is_lazy(parameter) or parameter.is_meta:
            raise ValueError(f"{name} has no values yet; load the weights, or run the model on one batch, first")
    if any(isinstance(module, ReparameterizedWeight) for module in model.modules()):
        raise ValueError(
            f"weights of {type(model).__name__} are random variables still; export what the sparsifier's "
            "finalized_copy() returns, or finalize() at the end"
        )


def _flush(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
