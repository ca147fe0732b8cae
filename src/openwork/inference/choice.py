"""Which kernel computes a layer fastest: measured, on one layer and the inputs that it gets."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from openwork.core.converted import Converted
from openwork.inference.alternative import Alternative
from openwork.inference.calls import Call
from openwork.inference.models import TOLERANCES, relative_difference
from openwork.inference.timing import Timing, time_in_turns

_BREAK_EVEN_ROUNDS = 9
_STEPS = range(0, 100, 5)  # percent


@dataclass(frozen=True)
class Tried:
    """One kernel beside the dense layer.

    Args:
        kernel: Its name.
        timing: Of one forward pass of the model through the layer; None where the kernel could not run.
        nbytes: What the layer holds in this form, 0 where it could not be made.
        problem: Why it is out of the question, "" if it is not.
    """

    kernel: str
    timing: Timing | None = None
    nbytes: int = 0
    problem: str = ""


@dataclass(frozen=True)
class LayerChoice:
    """What was measured of one layer, and what computes it now.

    Args:
        name: Of the layer in the model.
        shape: Of its weight.
        sparsity: The fraction of zeros in its weight, 0-1.
        calls: How often the model calls it with the sample.
        kernel: What computes it: "dense", or the name of an alternative.
        dense: The time of the dense layer for all calls; None where nothing was measured.
        dense_bytes: What the dense layer holds.
        tried: The alternatives.
        break_even: The lowest sparsity, in steps of 0.05, from which the fastest alternative beats the dense layer with
            random zeros in this shape and these inputs; 1.0 where none does, None where it was not measured.
        reason: Why the layer is dense, "" where it is not.
    """

    name: str
    shape: tuple[int, ...]
    sparsity: float
    calls: int
    kernel: str
    dense: Timing | None
    dense_bytes: int
    tried: tuple[Tried, ...] = ()
    break_even: float | None = None
    reason: str = ""

    @property
    def best(self) -> Tried | None:
        """The fastest alternative that was timed."""
        timed = [one for one in self.tried if one.timing and not one.problem]
        return min(timed, key=lambda one: one.timing.median if one.timing else 0.0, default=None)

    @property
    def nbytes(self) -> int:
        """What the layer holds now."""
        return next((one.nbytes for one in self.tried if one.kernel == self.kernel), self.dense_bytes)

    def kept_dense(self, reason: str) -> "LayerChoice":
        """The same, but dense."""
        return replace(self, kernel="dense", reason=reason)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; seconds and bytes."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "sparsity": self.sparsity,
            "calls": self.calls,
            "kernel": self.kernel,
            "reason": self.reason,
            "bytes": {"dense": self.dense_bytes, "now": self.nbytes},
            "seconds": {
                "dense": self.dense.to_dict() if self.dense else None,
                **{one.kernel: one.timing.to_dict() if one.timing else None for one in self.tried},
            },
            "problems": {one.kernel: one.problem for one in self.tried if one.problem},
            "break_even": self.break_even,
        }


def not_tried(name: str, leaf: str, layer: nn.Module, reason: str) -> LayerChoice:
    """The choice for a layer that stays dense without a measurement.

    Args:
        name: Of the layer in the model.
        leaf: The name of its weight.
        layer: The layer.
        reason: Why.
    """
    weight = layer._parameters[leaf]
    assert weight is not None
    held = sum(tensor.nbytes for tensor in layer.parameters(recurse=False))
    return LayerChoice(name, tuple(weight.shape), _sparsity(weight), 0, "dense", None, held, reason=reason)


def _sparsity(weight: Tensor) -> float:
    return int((weight == 0).sum()) / max(1, weight.numel())


@torch.no_grad()
def choose(
    name: str, layer: nn.Module, calls: Counter[Call], alternatives: Sequence[Alternative], rounds: int, graph: bool
) -> tuple[LayerChoice, Converted | None]:
    """The fastest way to compute a layer, and the layer in that form; None where that is the dense one.

    Args:
        name: The layer's name in the model.
        layer: A layer with a ``weight``, in evaluation mode.
        calls: The inputs that one forward pass of the model gives it, and how often each.
        alternatives: What to try beside the dense layer.
        rounds: How often to measure each.
        graph: As in `time_in_turns`.
    """
    weight = layer.weight
    assert isinstance(weight, Tensor)
    reason = "" if calls else "not called with one tensor for this sample"
    plain = replace(not_tried(name, "weight", layer, reason), calls=calls.total())
    if not calls:
        return plain, None
    inputs = [(call.random(), count) for call, count in calls.items()]
    tried: list[Tried] = []
    forms: dict[str, Converted] = {}
    for one in alternatives:
        problem = next(filter(None, (one.misfit(layer, x) for x, _ in inputs)), "")
        if not problem:
            form = one.convert(layer).eval()
            problem = _difference(layer, form, [x for x, _ in inputs])
            if not problem:
                forms[one.name] = form
        tried.append(Tried(one.name, problem=problem))
    if not forms:
        reason = "; ".join(dict.fromkeys(one.problem for one in tried)) or "no kernel here"
        return replace(plain, tried=tuple(tried)).kept_dense(reason), None
    timed = _time([layer, *forms.values()], inputs, rounds, graph)
    dense, timings = timed[0], dict(zip(forms, timed[1:], strict=True))
    tried = [
        replace(one, timing=timings[one.kernel], nbytes=forms[one.kernel].nbytes) if one.kernel in forms else one
        for one in tried
    ]
    found = replace(plain, dense=dense, tried=tuple(tried))
    best = found.best
    assert best is not None
    assert best.timing is not None
    if not best.timing.faster_than(dense):
        ratio = dense.median / best.timing.median
        reason = "dense is faster" if ratio < 1 else "no gain beyond noise"
        return found.kept_dense(f"{reason} ({best.kernel}: {ratio:.2f} x)"), None
    return replace(found, kernel=best.kernel), forms[best.kernel]


@torch.no_grad()
def break_even(layer: nn.Module, calls: Counter[Call], one: Alternative, graph: bool) -> float | None:
    """The lowest sparsity from which an alternative beats the dense layer, as `LayerChoice` has it.

    Args:
        layer: A layer with a ``weight``, whose shape counts.
        calls: The inputs that it gets.
        one: The alternative.
        graph: As in `time_in_turns`.
    """
    weight = layer.weight
    assert isinstance(weight, Tensor)
    inputs = [(call.random(), count) for call, count in calls.items()]
    generator = torch.Generator().manual_seed(0)
    ranks = torch.rand(weight.shape, generator=generator, device="cpu").to(weight.device)
    values = torch.randn(weight.shape, generator=generator, device="cpu").to(weight)
    low, high = 0, len(_STEPS)  # of what `low` counts all steps lose, of what `high` counts all win
    while low < high:
        middle = (low + high) // 2
        parameters = {"weight": nn.Parameter(values * (ranks >= _STEPS[middle] / 100))}
        other = _with(layer, parameters)
        if any(one.misfit(other, x) for x, _ in inputs):
            return None  # it wants a pattern
        dense, sparse = _time([other, one.convert(other).eval()], inputs, _BREAK_EVEN_ROUNDS, graph)
        if sparse.median < dense.median:
            high = middle
        else:
            low = middle + 1
    return _STEPS[low] / 100 if low < len(_STEPS) else 1.0


def _with(layer: nn.Module, parameters: dict[str, nn.Parameter]) -> nn.Module:
    """A module like ``layer`` that shares what it holds, but for these parameters."""
    other = layer.__class__.__new__(layer.__class__)
    other.__dict__.update(layer.__dict__)
    other._parameters = {**layer._parameters, **parameters}
    return other


def _time(modules: Sequence[nn.Module], inputs: list[tuple[Tensor, int]], rounds: int, graph: bool) -> list[Timing]:
    def through(module: nn.Module) -> None:
        for x, count in inputs:
            for _ in range(count):
                module(x)

    functions = [partial(through, module) for module in modules]
    return time_in_turns(functions, inputs[0][0].device, rounds=rounds, graph=graph)


def _difference(layer: nn.Module, form: nn.Module, inputs: list[Tensor]) -> str:
    """Why the outputs of ``form`` are not those of ``layer``; "" if they are."""
    for x in inputs:
        dense, other = layer(x), form(x)
        if dense.shape != other.shape or dense.dtype != other.dtype:
            return f"its output is {tuple(other.shape)} {other.dtype}, not {tuple(dense.shape)} {dense.dtype}"
        limit = TOLERANCES.get(dense.dtype, 0.0)
        if not (far := relative_difference(dense, other)) <= limit:
            return f"its output differs by {far:.1g} of the largest, more than {limit:g}"
    return ""
