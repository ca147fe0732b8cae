"""When a technique's evidence is gathered from gradients, and whether the host can give what it asks for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from openwork.core.masks.inputs import observable
from openwork.core.masks.weight import MaskedWeight
from openwork.core.mechanism import Calibrate

if TYPE_CHECKING:
    from openwork.core.masks.technique import MaskTechnique


def listens(technique: MaskTechnique, step: int) -> bool:
    """Whether the gradients of step number ``step`` are evidence."""
    when = technique.evidence.gradients
    return when == "every step" or (when == "at updates" and technique.schedule.due(step))


def listen(technique: MaskTechnique, weights: Iterable[MaskedWeight], optimizer: torch.optim.Optimizer) -> None:
    """Shows the gradients, as the optimizer would take them, to the technique's evidence."""
    # GradScaler sets both for the time of the step, where it leaves unscaling and skipping to a fused optimizer.
    overflow, scale = getattr(optimizer, "found_inf", None), getattr(optimizer, "grad_scale", None)
    if overflow is not None and bool(overflow):
        return
    for weight in weights:
        parameter = weight.parameter
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        if gradient.is_sparse:  # an Embedding's: some rows of the matrix
            gradient = gradient.to_dense()
        if scale is not None:
            gradient = gradient / scale
        technique.evidence.gradient(weight.evidence, weight.values(), gradient.detach())


def check_calibration(technique: MaskTechnique, weights: Sequence[MaskedWeight], calibrate: Calibrate | None) -> None:
    """Raises ValueError for evidence that this host cannot give, and for a calibration that nobody asks for."""
    evidence, name = technique.evidence, type(technique).__name__
    gradients = evidence.gradients != "never"
    if calibrate is None:
        if evidence.inputs:
            raise ValueError(
                f"{name} looks at the inputs of layers, which sparsify sees only in a calibration; pass "
                "calibrate=lambda model: model(batch)"
            )
        if gradients and not technique.regrows and technique.schedule.due(0):
            raise ValueError(
                f"{name} looks at gradients, and {technique.schedule} prunes before there are any; pass "
                "calibrate=lambda model: loss(model).backward(), or prune later, e.g. at=1"
            )
        return
    if not (evidence.inputs or gradients):
        raise ValueError(f"{name} looks at the weights alone; leave out calibrate={calibrate!r}")
    for weight in weights:
        if evidence.inputs:
            for site in weight.source.sites:
                observable(site)
        if gradients and not weight.parameter.requires_grad:
            raise ValueError(
                f"{name} looks at gradients, and {weight.name} is frozen; leave it out with "
                f"select=excluding({weight.name!r}), or freeze it after sparsify"
            )
