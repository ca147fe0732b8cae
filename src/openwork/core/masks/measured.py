"""What an evidence measures itself in a calibration, by losses or outputs whose graph it may differentiate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from openwork.core.mechanism import Calibrate

if TYPE_CHECKING:
    from openwork.core.masks.evidence import Evidence
    from openwork.core.masks.weight import MaskedWeight


def measure(
    evidence: Evidence, weights: Sequence[MaskedWeight], model: nn.Module, calibrate: Calibrate
) -> Mapping[str, Tensor]:
    """What the evidence measures of each weight, by name.

    Args:
        evidence: The technique's, which needs what the calibration returns.
        weights: The weights.
        model: The model that owns them.
        calibrate: Returns a loss, or the model's outputs, of a batch; or an iterator over those of several batches, of
            which one graph exists at a time.

    Raises:
        TypeError: If the calibration returns no tensor, or the evidence none of a weight's shape.
        ValueError: If what it returns has no graph, a loss is not finite or not of shape (), or the iterator is empty.
    """

    def run() -> Iterator[Tensor]:
        found: object = calibrate(model)
        nothing = True
        for each in found if isinstance(found, Iterator) else [found]:
            nothing = False
            yield _checked(evidence, each)
        if nothing:
            raise ValueError(f"the calibration returned an iterator without items; yield {evidence.returns} a batch")

    parameters = {weight.name: weight.parameter for weight in weights}
    with torch.enable_grad():
        measured = evidence.measure(model, parameters, run)
    for name, parameter in parameters.items():
        one = measured.get(name) if isinstance(measured, Mapping) else None
        if not isinstance(one, Tensor) or one.shape != parameter.shape:
            what = f"a tensor of shape {tuple(one.shape)}" if isinstance(one, Tensor) else f"a {type(one).__name__}"
            raise TypeError(
                f"{type(evidence).__name__}.measure must return a tensor of shape {tuple(parameter.shape)} for {name}, "
                f"and returned {what}"
            )
    return {name: measured[name].detach() for name in parameters}


def gradients(loss: Tensor, weights: Mapping[str, Tensor], *, graph: bool = False) -> tuple[Tensor, ...]:
    """The gradients of the loss by the weights.

    Args:
        loss: The loss, of shape ().
        weights: The parameters by name.
        graph: Whether to keep the graph of the gradients, to differentiate them again.

    Raises:
        ValueError: If the loss does not depend on a weight; names the first one.
    """
    found = torch.autograd.grad(loss, list(weights.values()), create_graph=graph, allow_unused=True)
    for name, gradient in zip(weights, found, strict=True):
        if gradient is None:
            raise ValueError(
                f"the loss that the calibration returned does not depend on {name}; leave it out with "
                f"select=excluding({name!r})"
            )
    return found


def _checked(evidence: Evidence, found: object) -> Tensor:
    """What the calibration returned, if it can be differentiated."""
    cure = "pass calibrate=lambda model: loss(model(x), y), without backward()"
    if evidence.returns == "outputs":
        cure = "pass calibrate=lambda model: model(x)"
    if not isinstance(found, Tensor):
        raise TypeError(f"the calibration must return {evidence.returns}, got a {type(found).__name__}; {cure}")
    if evidence.returns == "a loss" and found.shape != ():
        raise ValueError(f"the calibration must return a loss of shape (), got one of {tuple(found.shape)}; {cure}")
    if torch.is_grad_enabled() and not found.requires_grad:  # the evidence may want some passes without
        raise ValueError(
            f"the calibration must return {evidence.returns} with a graph; leave out detach(), item() and no_grad()"
        )
    if evidence.returns == "a loss" and not found.isfinite():
        raise ValueError(
            f"the calibration returned a loss of {found.item()}; check its batch, and that the model's weights are "
            "finite"
        )
    return found
