"""Calibration: evidence from batches before training, which leaves no other trace in the model."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from openwork.core.masks.evidence import Evidence
from openwork.core.masks.inputs import rows
from openwork.core.masks.weight import MaskedWeight
from openwork.core.mechanism import Calibrate
from openwork.core.sharded import is_sharded, version


def gather(evidence: Evidence, weights: Sequence[MaskedWeight], model: nn.Module, calibrate: Calibrate) -> None:
    """Shows inputs and gradients of the calibration to the evidence of every weight.

    Gradients, buffers, training flags and torch's generators are afterwards as they were. Where several processes run,
    all must call this: gradients, and what inputs left behind, are averaged over them.

    Raises:
        ValueError: Where an input or a gradient that is asked for never came, or the calibration moved a weight.

    """
    seen: set[str] = set()
    versions = [version(weight.parameter) for weight in weights]
    hooks = [
        site.module.register_forward_pre_hook(_watch(evidence, weight, seen), with_kwargs=True)
        for weight in weights
        for site in (weight.source.sites if evidence.inputs else ())
    ]
    try:
        with _untouched(model):
            with torch.enable_grad():
                calibrate(model)
            _check(evidence, weights, seen, versions)
            for weight in weights:
                for name in weight.evidence.keys() if evidence.inputs else ():
                    weight.evidence[name] = _averaged(weight.evidence[name])
                weight.lasting = frozenset(weight.evidence)
            for weight in weights if evidence.gradients != "never" else ():
                gradient = weight.parameter.grad
                assert gradient is not None
                evidence.gradient(weight.evidence, weight.values(), _averaged(gradient))
    finally:
        for hook in hooks:
            hook.remove()


def _watch(evidence: Evidence, weight: MaskedWeight, seen: set[str]) -> Callable[..., None]:
    @torch.no_grad()
    def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.add(weight.name)
        evidence.input(weight.evidence, rows(module, args, kwargs))

    return watch


def _check(evidence: Evidence, weights: Sequence[MaskedWeight], seen: set[str], versions: list[int]) -> None:
    for weight, before in zip(weights, versions, strict=True):
        if version(weight.parameter) != before:
            raise ValueError(
                f"the calibration moved {weight.name}; it must run forward and backward only, without an optimizer"
            )
        if evidence.inputs and weight.name not in seen:
            raise ValueError(
                f"the calibration called no layer with {weight.name}; run batches through all selected layers, or "
                f"leave it out with select=excluding({weight.name!r})"
            )
        if evidence.gradients != "never" and weight.parameter.grad is None:
            raise ValueError(
                f"the calibration left no gradient on {weight.name}; call backward() on a loss that depends on it, or "
                f"leave it out with select=excluding({weight.name!r})"
            )


def _averaged(value: Tensor) -> Tensor:
    """The mean over all processes; FSDP2 has averaged the gradient of a shard already."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()) or is_sharded(value):
        return value
    total = value.clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Gradients are empty inside; they, buffers, training flags and torch's generators are restored afterwards."""
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    training = {module: module.training for module in model.modules()}
    devices = sorted({p.device.index for p, _ in gradients if p.device.type == "cuda" and p.device.index is not None})
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, name, buffer, values in buffers:
            module._buffers[name] = buffer.copy_(values)
        for module, flag in training.items():
            module.training = flag
