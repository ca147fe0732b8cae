"""Running an ONNX file in onnxruntime, beside the model that it was made of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from openwork.core.forward import first_line
from openwork.formats.onnx.example import Example


@dataclass(frozen=True)
class Difference:
    """What `difference` found.

    Args:
        largest: The largest difference, as a fraction of the largest value of its output.
        sizes: The sizes of the axes that may vary, for each example that was run.
    """

    largest: float
    sizes: tuple[str, ...]


def difference(model: nn.Module, path: Path, example: Example, tolerance: float) -> Difference:
    """How far onnxruntime's outputs are from PyTorch's, on the example, on one of other sizes, and on one of size 1.

    A model that does not take size 1 itself is not run with it.

    Args:
        model: The model, in evaluation mode.
        path: The ONNX file.
        example: What it was exported with.
        tolerance: The largest difference that is allowed.

    Raises:
        ValueError: If onnxruntime cannot run the file, or the difference is larger.
    """
    session = _session(path)
    largest = 0.0
    examples = _examples(model, example)
    for one in examples:
        expected = tensors_of(_run(model, one))
        got = _outputs(session, one, other=one is not example)
        if len(got) != len(expected):
            raise ValueError(f"the file gives {len(got)} outputs for {len(expected)} tensors; return tensors alone")
        for index, (ours, theirs) in enumerate(zip(expected, got, strict=True)):
            apart = distance(ours, theirs)
            if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
                raise ValueError(
                    f"output {index} of onnxruntime is {theirs.dtype} {tuple(theirs.shape)}, PyTorch's {ours.dtype} "
                    f"{tuple(ours.shape)}; the exporter changed it, so try another version of torch"
                )
            if not apart <= tolerance:
                raise ValueError(_far(model, one, index, apart, tolerance))
            largest = max(largest, apart)
    return Difference(largest, tuple(one.sizes() for one in examples if example.dynamic))


def _examples(model: nn.Module, example: Example) -> list[Example]:
    if not example.dynamic:
        return [example]
    examples, one = [example, example.other()], example.of_one()
    if one.sizes() in (each.sizes() for each in examples):
        return examples
    try:
        one.run(model)
    except Exception:  # such as a norm over the batch
        return examples
    return [*examples, one]


def distance(expected: Tensor, got: Tensor) -> float:
    """The largest difference as a fraction of the largest finite value; inf where shapes, types or NaN differ."""
    expected = expected.detach().cpu()
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return float("inf")
    if not expected.is_floating_point():
        return 0.0 if torch.equal(got, expected) else float("inf")
    ours, theirs = expected.double(), got.double()
    same = (ours == theirs) | (ours.isnan() & theirs.isnan())
    apart = torch.where(same, 0.0, (ours - theirs).abs())
    if not apart.isfinite().all():
        return float("inf")
    finite = ours[ours.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    return float(apart.max()) / scale if scale and apart.numel() else float(apart.sum())


def tensors_of(outputs: Any) -> list[Tensor]:
    """The tensors among a model's outputs."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised, and said once
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no class of their own
        raise ValueError(
            f"onnxruntime cannot load what was exported: {first_line(error)}; "
            "it computes in float32, so try model.float(), or another version of onnxruntime"
        ) from error


def _outputs(session: Any, example: Example, *, other: bool) -> list[Tensor]:
    """What onnxruntime computes; ``other`` says whether the sizes are others than those that were exported."""
    names = [value.name for value in session.get_inputs()]
    tensors = example.tensors
    if len(names) != len(tensors):
        raise ValueError(
            f"the graph has {len(names)} inputs for the {len(tensors)} tensors of the example; leave out those that "
            "the forward does not use"
        )
    try:
        outputs = session.run(None, {n: t.detach().cpu().numpy() for n, t in zip(names, tensors, strict=True)})
    except Exception as error:
        if not other:
            raise ValueError(
                f"onnxruntime cannot run what was exported, even on the example: {first_line(error)}; the exporter "
                "does not translate this model, so export its other parts, or try another version of torch"
            ) from error
        raise ValueError(
            f"onnxruntime cannot run what was exported with {example.sizes()}: {first_line(error)}; the forward may "
            "depend on that size, so leave the axis out of dynamic"
        ) from error
    return [torch.from_numpy(output) for output in outputs]


def _run(model: nn.Module, example: Example) -> Any:
    try:
        return example.run(model)
    except Exception as error:
        raise ValueError(
            f"the model does not run with {example.sizes()}, as its example does: {first_line(error)}; leave the axis "
            "that cannot have this size out of dynamic"
        ) from error


def _far(model: nn.Module, example: Example, index: int, apart: float, tolerance: float) -> str:
    first, second = tensors_of(example.run(model))[index], tensors_of(example.run(model))[index]
    if distance(first, second.detach().cpu()) > tolerance:
        return "the model's outputs differ from call to call; remove what is random, or counts calls, from its forward"
    where = f"output {index} of onnxruntime differs from PyTorch's by {apart:.2g} of its largest value"
    sizes = f" with {example.sizes()}" if example.dynamic else ""
    return f"{where}{sizes}, more than the tolerance {tolerance:g}; raise it if that is near enough"
