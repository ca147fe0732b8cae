"""The smaller copy of a model, and how it compares with the model."""

from typing import Any

from torch import Tensor, nn

from openwork.core.copies import copied_model
from openwork.core.forward import copied
from openwork.core.snapshot import snapshot
from openwork.inference.models import bytes_of, difference
from openwork.inference.shrink.apply import Sites, apply, immovable
from openwork.inference.shrink.decide import Decision
from openwork.inference.shrink.follow import follow
from openwork.inference.shrink.same import same_operations
from openwork.inference.shrink.shrunk import Shrunk, ShrunkTensor
from openwork.inference.shrink.trace import Traced, outputs, trace
from openwork.inspect.flops import count_flops


def smaller(
    model: nn.Module, example: Any, traced: Traced, expected: list[Tensor]
) -> tuple[nn.Module, Decision, float]:
    """A smaller copy whose outputs are the same, what it lost, and the difference that is left.

    Code may count channels itself, as ``x.view(-1, 800)`` and ``x / x.shape[1]`` do. In the graph these look like any
    other numbers, but not when the smaller model runs. Then each line that reshapes units is tried alone, and if that
    does not help, each weight.

    Args:
        model: The model, which stays as it is.
        example: Its input.
        traced: Its operations on that.
        expected: Its outputs.

    Raises:
        ValueError: If no copy has these outputs, as where each call computes something else.
    """
    small, decision, far = _attempt(model, example, traced, expected, frozenset())
    for candidates in (decision.graph.reshaping_lines, _changed(decision)):
        if far is not None:
            break
        every = frozenset(candidates)
        alone = {one: _attempt(model, example, traced, expected, every - {one})[2] for one in candidates}
        for refused in (frozenset(one for one, found in alone.items() if found is None), every):
            if far is None:
                small, decision, far = _attempt(model, example, traced, expected, refused)
    if far is None:
        raise ValueError(
            "the model computes something else each time, as with dropout that is on in evaluation; turn it off, or "
            "shrink the parts of the model that do not"
        )
    return small, decision, far


def _attempt(
    model: nn.Module, example: Any, traced: Traced, expected: list[Tensor], refused: frozenset[str]
) -> tuple[nn.Module, Decision, float | None]:
    """A smaller copy; the difference is None where it computes something else, or does the same in another way."""
    small = copied_model(model).eval()
    tensors, sites = named_tensors(small)
    decision = Decision(follow(traced, tensors, immovable(sites), refused))
    apply(decision, tensors, sites, dict(small.named_modules()))
    unchanged = snapshot(small)
    try:
        far, problem = difference(expected, outputs(small, example))
        found = None if problem else far
        if _changed(decision) and not same_operations(traced, trace(small, example)):
            found = None
    except ValueError:
        found = None
    unchanged()
    return small, decision, found


def _changed(decision: Decision) -> list[str]:
    """The weights that lose outputs."""
    return [read.weight for read in decision.graph.reads if decision.goes(read.outputs).any()]


def named_tensors(model: nn.Module) -> tuple[dict[str, Tensor], Sites]:
    """Parameters and buffers by all their names, and the modules that hold each."""
    held: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for leaf, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                held.setdefault(id(tensor), []).append((module, leaf))
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    return tensors, {name: held[id(tensor)] for name, tensor in tensors.items()}


def compare(dense: nn.Module, small: nn.Module, decision: Decision, difference: float, example: Any) -> Shrunk:
    """The report on a model and a smaller one.

    Args:
        dense: The model.
        small: Its smaller copy.
        decision: What the copy lost.
        difference: How far its outputs are.
        example: An input of both.
    """
    now = dict(small.named_parameters(remove_duplicate=False)) | dict(small.named_buffers(remove_duplicate=False))
    tensors = [
        ShrunkTensor(name, value.shape, tuple(now[name].shape), decision.left(name))
        for name, value in decision.graph.parameters.items()
    ]
    flops = count_flops(dense, copied(example)).dense, count_flops(small, copied(example)).dense
    return Shrunk(small, tuple(tensors), (bytes_of(dense), bytes_of(small)), flops, difference)
