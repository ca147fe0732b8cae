"""When a technique's evidence is gathered from gradients, and whether the host can give what it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from openwork.core.masks.check import checked_beginning, unchanged
from openwork.core.masks.evidence import Evidence
from openwork.core.masks.inputs import observable
from openwork.core.masks.weight import MaskedWeight, remember
from openwork.core.mechanism import Calibrate
from openwork.core.optimizers import overflowed
from openwork.core.precision import exact
from openwork.core.sharded import is_sharded, local, shard_like
from openwork.core.snapshot import rescales

if TYPE_CHECKING:
    from openwork.core.masks.technique import MaskTechnique


class Listening:
    """Which gradients of the coming step are evidence, and which of them have been taken already."""

    def __init__(self, technique: MaskTechnique, weights: Sequence[MaskedWeight]) -> None:
        self.technique = technique
        self.weights = weights
        self.now = False
        """Whether gradients of the coming step are evidence."""
        self._taken: set[int] = set()

    def begin(self) -> None:
        """Lets the evidence of each weight begin."""
        for weight in self.weights:
            weight.evidence = checked_beginning(self.technique.evidence, weight.parameter.detach())
            weight.lasting = frozenset(weight.evidence)

    def expect(self, step: int) -> None:
        """Gets ready for step number ``step``."""
        when = self.technique.evidence.gradients
        self.now = when == "every step" or (when == "at updates" and self.technique.schedule.due(step))
        self._taken.clear()

    def take(self, owned: Sequence[int], optimizer: torch.optim.Optimizer, *, counts: bool) -> None:
        """Shows gradients to the technique's evidence, as the optimizer is about to use them.

        Args:
            owned: The indices of the weights that the optimizer moves.
            optimizer: The optimizer whose step begins.
            counts: Whether the step completes an iteration. Where masks change after it, the gradients of weights whose
                optimizers did not step in this iteration are also shown, as far as they have been accumulated.
        """
        if not self.now or overflowed(optimizer):
            return
        remember(self.weights)
        scale = getattr(optimizer, "grad_scale", None)  # set by GradScaler where it leaves unscaling to the optimizer
        for index in owned:
            if index not in self._taken:
                self._show(self.weights[index], scale)
        self._taken.update(owned)
        if counts and self.technique.evidence.gradients == "at updates":
            for index in set(range(len(self.weights))) - self._taken:
                self._show(self.weights[index], None)
                self._taken.add(index)

    def stepped(self, owned: Sequence[int]) -> None:
        """Awaits the owned weights' next gradients, even within this iteration, where every step is evidence."""
        if self.technique.evidence.gradients == "every step":
            self._taken.difference_update(owned)

    def awaited(self) -> set[int]:
        """The weights whose gradients are still to be taken, and stay dense until then."""
        return set(range(len(self.weights))) - self._taken if self.now else set()

    def _show(self, weight: MaskedWeight, scale: Tensor | None) -> None:
        gradient = dense(weight.parameter)
        if scale is not None:
            gradient = shard_like(exact(local(gradient)) / scale, gradient)
        show(self.technique.evidence, weight, gradient)


def show(evidence: Evidence, weight: MaskedWeight, gradient: Tensor) -> None:
    """Shows a gradient to the evidence of a weight, which may look at it but not write to it; right after `remember`.

    Gradients of float16 or bfloat16 are shown as float32, so that products do not vanish and sums go on growing.

    Raises:
        RuntimeError: If the evidence writes to the weight or the gradient.
        ValueError: If the evidence of every step keeps what would not be saved.
    """
    kept, values, gradient = weight.evidence, exact(weight.values()), exact(gradient)
    with unchanged(f"{type(evidence).__name__}.gradient", {weight.name: values, f"{weight.name}.grad": gradient}):
        evidence.gradient(kept, values, gradient)
    for name, value in kept.items():
        if value is gradient or value is values:  # the host writes to both after this
            kept[name] = value.clone()
    new = kept.keys() - weight.lasting - {"gradient"}  # the last gradient, which each step brings again
    if new and evidence.gradients == "every step":
        weight.forget()
        raise ValueError(
            f"{type(evidence).__name__}.gradient adds {min(new)!r}, which is no part of the state, so that a resumed "
            f"run would lose the steps before; let begin() return {min(new)!r}, such as zeros"
        )


def dense(parameter: Tensor) -> Tensor:
    """The parameter's gradient as a dense tensor, also that of some rows of an embedding; 0 where there is none."""
    gradient = parameter.grad
    if gradient is None:
        return torch.zeros_like(parameter, requires_grad=False)
    return gradient.detach().to_dense() if gradient.is_sparse else gradient.detach()


def calibrates(technique: MaskTechnique) -> bool:
    """Whether the technique cannot do without a calibration."""
    evidence = technique.evidence
    if evidence.inputs or evidence.returns != "nothing" or evidence.gradients == "every backward":
        return True
    return evidence.trains and not technique.regrows and technique.schedule.due(0)


def _check_rounds(technique: MaskTechnique) -> None:
    """Raises ValueError for a number of rounds that is none, or whose rounds nobody would see."""
    rounds, name = technique.rounds, type(technique).__name__
    if not hasattr(rounds, "__index__") or rounds < 1:
        raise ValueError(f"rounds must be a whole number of at least 1, got {rounds!r}; 1 chooses masks once")
    if rounds > 1 and not technique.schedule.due(0):
        raise ValueError(
            f"{name} chooses masks in {rounds} rounds before training, and {technique.schedule} prunes later; give it "
            f"OneShot({technique.schedule.final}), or rounds=1"
        )


def check_calibration(technique: MaskTechnique, weights: Sequence[MaskedWeight], calibrate: Calibrate | None) -> None:
    """Checks that the technique can have its evidence.

    Args:
        technique: The technique.
        weights: The selected weights.
        calibrate: What the user passed to `sparsify`.

    Raises:
        ValueError: If a calibration is missing, is not used, cannot show the inputs or gradients of a weight, or moves
            one.
        TypeError: If the calibration is no function.
    """
    evidence, name, now = technique.evidence, type(technique).__name__, technique.schedule.due(0)
    _check_rounds(technique)
    once = evidence.returns != "nothing" or evidence.gradients == "every backward"
    if once and not (now and technique.schedule.last == 0):
        raise ValueError(
            f"{name} prunes once, by what a calibration shows before training, and {technique.schedule} prunes later; "
            f"give it OneShot({technique.schedule.final})"
        )
    if calibrate is None:
        if evidence.inputs:
            raise ValueError(
                f"{name} looks at the inputs of layers, which sparsify sees only in a calibration; pass "
                "calibrate=lambda model: model(batch)"
            )
        if evidence.returns != "nothing":
            what = "loss(model(x), y)" if evidence.returns == "a loss" else "model(x)"
            raise ValueError(
                f"{name} measures {evidence.returns} before training; pass calibrate=lambda model: {what}, which "
                "returns it"
            )
        if calibrates(technique):
            later = ", or prune later, as with at=1" if evidence.trains else ""
            raise ValueError(
                f"{name} looks at gradients, and {technique.schedule} prunes before there are any; pass "
                f"calibrate=lambda model: loss(model).backward(){later}"
            )
        return
    if not callable(calibrate):
        raise TypeError(
            f"calibrate must be a function that runs batches through its model, got a {type(calibrate).__name__}; "
            "pass calibrate=lambda model: model(batch)"
        )
    if not (evidence.inputs or evidence.differentiates):
        raise ValueError(f"{name} looks at the weights alone; leave out calibrate={calibrate!r}")
    if evidence.gradients == "at updates" and not evidence.inputs and not now:
        raise ValueError(f"{name} takes its gradients from training; leave out calibrate={calibrate!r}")
    for weight in weights:
        if (evidence.inputs or once) and is_sharded(weight.parameter):
            what = "whole layers' inputs" if evidence.inputs else "whole weights"
            raise ValueError(
                f"{name} looks at {what}, and fully_shard spreads {weight.name} over processes; "
                "prune before fully_shard, or use DistributedDataParallel"
            )
        for site in weight.source.sites if evidence.inputs else ():
            observable(site)
        if evidence.differentiates and not weight.parameter.requires_grad:
            raise ValueError(
                f"{name} looks at gradients, and {weight.name} is frozen; leave it out with "
                f"select=excluding({weight.name!r}), or freeze it after sparsify"
            )
        for site in weight.source.sites:
            if rescales(site.module):
                raise ValueError(
                    f"{site.name}: each forward of an {type(site.module).__name__} with max_norm rescales the rows "
                    "that it looks up, and a calibration may not move weights; set its max_norm to None until sparsify "
                    f"has returned, or leave it out with select=excluding({site.name!r})"
                )
