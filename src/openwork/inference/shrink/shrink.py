"""`shrink`, which removes dead units for good."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from openwork.core.chosen import check_model
from openwork.core.snapshot import snapshot
from openwork.inference.choice import TOLERANCES, relative_difference
from openwork.inference.shrink.apply import Sites, apply, immovable
from openwork.inference.shrink.check import check_finalized
from openwork.inference.shrink.decide import Decision
from openwork.inference.shrink.follow import follow
from openwork.inference.shrink.same import same_operations
from openwork.inference.shrink.shrunk import Shrunk, compare
from openwork.inference.shrink.trace import Traced, outputs, trace


def shrink(model: nn.Module, example: Any) -> Shrunk:
    """A smaller dense copy of ``model`` with the same outputs: units of zeros are removed for good.

    A unit is a feature, filter or attention head with all that must agree with it: what is added to it, its batch norm,
    its places in a flattened map. It goes if nobody reads it, as all weights for it are zero, or if its value is a
    constant, as its own weights are all zero; the constant then moves into the next layer's bias or the mean of the
    batch norm behind it, or, where zeros surround the map, into the weights of one constant unit that stays. Where the
    operations on the example do not prove that a unit may go, it stays, and the report says why.

    The copy has plain modules, and the same keys with smaller shapes. It computes what ``model`` does in evaluation
    mode; it can be trained on, saved, exported and compiled, and takes other batch sizes than the example's. ``model``
    stays as it is, and so do optimizers that hold its parameters.

    Args:
        model: A finalized model.
        example: Its input: a tuple holds several arguments, a mapping keyword arguments.

    Returns:
        The copy as ``model``, and what was removed, and what was kept in spite of zeros; prints as a table.

    Raises:
        TypeError: If ``model`` is no module, or wraps one.
        ValueError: If it is still being sparsified, the example does not fit, or `torch.export` cannot follow the
            model, as where it decides by values.
    """
    check_model(model)
    check_finalized(model)
    dense = _copy(model)
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # forward passes may draw random numbers
        expected = outputs(dense, example)
        traced = trace(dense, example).with_one_name(_tensors(dense)[0])
        small, decision, difference = _smaller(model, example, traced, expected)
        unchanged = snapshot(small)
        found = compare(dense, small, decision, difference, example)
        unchanged()
    for own, given in zip(small.modules(), model.modules(), strict=True):
        own.training = given.training
    return found


def _smaller(
    model: nn.Module, example: Any, traced: Traced, expected: list[Tensor]
) -> tuple[nn.Module, Decision, float]:
    """A smaller copy whose outputs are the same, what it lost, and the difference that is left.

    Code may count channels itself, as ``x.view(-1, 800)`` and ``x / x.shape[1]`` do. In the graph these look like any
    other numbers, but not when the smaller model runs. Then each line that reshapes units is tried alone, and if that
    does not help, each weight.
    """
    small, decision, difference = _attempt(model, example, traced, expected, frozenset())
    for candidates in (decision.graph.reshaping_lines, _changed(decision)):
        if difference is not None:
            break
        every = frozenset(candidates)
        alone = {one: _attempt(model, example, traced, expected, every - {one})[2] for one in candidates}
        for refused in (frozenset(one for one, found in alone.items() if found is None), every):
            if difference is None:
                small, decision, difference = _attempt(model, example, traced, expected, refused)
    if difference is None:
        raise ValueError(
            "the model computes something else each time, as with dropout that is on in evaluation; turn it off, or "
            "shrink the parts of the model that do not"
        )
    return small, decision, difference


def _attempt(
    model: nn.Module, example: Any, traced: Traced, expected: list[Tensor], refused: frozenset[str]
) -> tuple[nn.Module, Decision, float | None]:
    """A smaller copy; the difference is None where it computes something else, or does the same in another way."""
    small = _copy(model)
    tensors, sites = _tensors(small)
    decision = Decision(follow(traced, tensors, immovable(sites), refused))
    apply(decision, tensors, sites, dict(small.named_modules()))
    unchanged = snapshot(small)
    try:
        difference = _difference(expected, outputs(small, example))
        if _changed(decision) and not same_operations(traced, trace(small, example)):
            difference = None
    except ValueError:
        difference = None
    unchanged()
    return small, decision, difference


def _changed(decision: Decision) -> list[str]:
    """The weights that lose outputs."""
    return [read.weight for read in decision.graph.reads if decision.goes(read.outputs).any()]


def _difference(expected: list[Tensor], found: list[Tensor]) -> float | None:
    """The largest difference as a fraction of the largest output; None where it is more than rounding."""
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in found]:
        return None
    expected, found = _real(expected), _real(found)
    apart = [relative_difference(dense, small) for dense, small in zip(expected, found, strict=True)]
    limits = [TOLERANCES.get(tensor.dtype, 0.0) for tensor in expected]
    return max(apart, default=0.0) if all(a <= limit for a, limit in zip(apart, limits, strict=True)) else None


def _real(tensors: list[Tensor]) -> list[Tensor]:
    return [torch.view_as_real(tensor) if tensor.is_complex() else tensor for tensor in tensors]


def _tensors(model: nn.Module) -> tuple[dict[str, Tensor], Sites]:
    """Parameters and buffers by all their names, and the modules that hold each."""
    held: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for leaf, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                held.setdefault(id(tensor), []).append((module, leaf))
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    return tensors, {name: held[id(tensor)] for name, tensor in tensors.items()}


def _copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode.

    Raises:
        ValueError: If the model cannot be copied.
    """
    try:
        return copy.deepcopy(model).eval()
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise ValueError(f"the model cannot be copied ({reason}); give one that copy.deepcopy takes") from error
