"""Calibration: evidence from batches before training, which leaves no other trace in the model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from openwork.core.masks.evidence import Evidence
from openwork.core.masks.listening import dense, show
from openwork.core.masks.measured import measure
from openwork.core.masks.shown import ShownInputs, showing_inputs
from openwork.core.masks.weight import MaskedWeight
from openwork.core.mechanism import Calibrate
from openwork.core.optimizers import parameter_ids
from openwork.core.precision import exact
from openwork.core.processes import in_all_processes, several
from openwork.core.sharded import is_sharded, version
from openwork.core.snapshot import same_generators, snapshot


def gather(evidence: Evidence, weights: Sequence[MaskedWeight], model: nn.Module, calibrate: Calibrate) -> None:
    """Runs the calibration, and shows its inputs, gradients or losses to the evidence of every weight.

    Gradients, buffers, training flags and torch's generators are afterwards as they were, even if this raises. Where
    several processes run, all must call this: it averages gradients, and what all else left behind, over them.

    Args:
        evidence: The technique's.
        weights: The weights, in whose ``evidence`` the findings are kept.
        model: The model that owns them.
        calibrate: Runs batches through the model, and backward where gradients are needed.

    Raises:
        RuntimeError: If this fails in another process.
        TypeError: If it returned no tensors where the evidence needs some.
        ValueError: If an input, a gradient or a loss that the evidence needs never came, if an optimizer is about to
            move a weight, or if something else has moved one.
    """
    inputs = ShownInputs(evidence, weights if evidence.inputs else ())
    shown: set[str] = set()  # whose gradients came
    passing: dict[str, set[str]] = {weight.name: set() for weight in weights}
    versions = [version(weight.parameter) for weight in weights]
    hooks = []
    for weight in weights if evidence.gradients == "every backward" else ():
        take = _take_each(evidence, weight, shown, passing[weight.name])
        hooks.append(weight.parameter.register_post_accumulate_grad_hook(take))  # type: ignore[no-untyped-call]
    measured: Mapping[str, Tensor] = {}
    try:
        with _untouched(model):
            sharded = any(is_sharded(weight.parameter) for weight in weights)
            with in_all_processes("the calibration", weights[0].mask.device, alone=sharded):
                # Without gradients to come a large model need not keep its activations.
                watched = showing_inputs([weight.source for weight in inputs.weights], inputs.show)
                with torch.set_grad_enabled(evidence.differentiates), watched:
                    if evidence.returns == "nothing":
                        calibrate(model)
                    else:
                        measured = measure(evidence, weights, model, calibrate)
                _check(evidence, weights, inputs.seen, shown, versions)
                inputs.finish()
            for weight in weights:
                for name in weight.evidence.keys() if evidence.inputs or shown else ():
                    weight.evidence[name] = _averaged(weight.evidence[name])
                weight.lasting = frozenset(weight.evidence) - passing[weight.name]
                if measured:
                    weight.evidence["measured"] = _averaged(exact(measured[weight.name]))
            for weight in weights if evidence.trains else ():
                show(evidence, weight, _averaged(exact(dense(weight.parameter))))
    finally:
        for hook in hooks:
            hook.remove()


def _take_each(
    evidence: Evidence, weight: MaskedWeight, shown: set[str], passing: set[str]
) -> Callable[[Tensor], None]:
    """A hook that shows the evidence the gradient of one backward; the next one begins at 0."""

    @torch.no_grad()
    def take(parameter: Tensor) -> None:
        before = weight.evidence.keys() - passing
        show(evidence, weight, dense(parameter))
        shown.add(weight.name)
        passing.update(weight.evidence.keys() - before)
        parameter.grad = None

    return take


def _check(
    evidence: Evidence,
    weights: Sequence[MaskedWeight],
    seen: set[str],
    shown: set[str],
    versions: list[int],
) -> None:
    for weight, before in zip(weights, versions, strict=True):
        if version(weight.parameter) != before:
            raise ValueError(
                f"the calibration moved {weight.name}; it must run forward and backward only, without an optimizer and "
                "through layers that do not write to their weights"
            )
        if evidence.inputs and weight.name not in seen:
            raise ValueError(
                f"the calibration called no layer with {weight.name}; run batches through all selected layers, or "
                f"leave it out with select=excluding({weight.name!r})"
            )
        lacking = weight.parameter.grad is None if evidence.trains else weight.name not in shown
        if evidence.gradients != "never" and lacking:
            raise ValueError(
                f"the calibration left no gradient on {weight.name}; call backward() on a loss that depends on it, or "
                f"leave it out with select=excluding({weight.name!r})"
            )


def _averaged(value: Tensor) -> Tensor:
    """The mean over all processes; FSDP2 has averaged the gradient of a shard already."""
    if not several() or is_sharded(value):
        return value
    total = value.clone()
    torch.distributed.all_reduce(total)
    mean = total / torch.distributed.get_world_size()
    return mean if value.is_floating_point() or value.is_complex() else mean.round().to(value.dtype)


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Gradients are empty inside; they, buffers, flags and torch's generators are restored afterwards."""
    parameters = [(parameter, parameter.grad, parameter.requires_grad) for parameter in model.parameters()]
    restore = snapshot(model)
    for parameter, *_ in parameters:
        parameter.grad = None
    guard = register_optimizer_step_pre_hook(_refuse_steps({id(parameter) for parameter, *_ in parameters}))
    try:
        with same_generators(model):
            yield
    finally:
        guard.remove()
        restore()
        for parameter, gradient, trained in parameters:
            parameter.requires_grad_(trained).grad = gradient


def _refuse_steps(ids: set[int]) -> Callable[..., None]:
    """A hook that raises ValueError before an optimizer moves one of these parameters."""

    def refuse(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if ids & parameter_ids(optimizer):
            raise ValueError(
                f"the calibration steps {type(optimizer).__name__}; it must run forward and backward only, without an "
                "optimizer"
            )

    return refuse
