"""`shrink`, which removes dead units for good."""

from typing import Any

import torch
from torch import Tensor, nn

from openwork.core.chosen import check_model
from openwork.core.snapshot import snapshot
from openwork.inference.models import copied_model, difference
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
    dense = copied_model(model)
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # forward passes may draw random numbers
        expected = outputs(dense, example)
        traced = trace(dense, example).with_one_name(_tensors(dense)[0])
        small, decision, far = _smaller(model, example, traced, expected)
        unchanged = snapshot(small)
        found = compare(dense, small, decision, far, example)
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
    small = copied_model(model)
    tensors, sites = _tensors(small)
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


def _tensors(model: nn.Module) -> tuple[dict[str, Tensor], Sites]:
    """Parameters and buffers by all their names, and the modules that hold each."""
    held: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for leaf, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                held.setdefault(id(tensor), []).append((module, leaf))
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    return tensors, {name: held[id(tensor)] for name, tensor in tensors.items()}
