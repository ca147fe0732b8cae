"""One-shot pruning of a trained model, whose metric is measured before and after."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from openwork.core.batchnorm import recalibrate_batchnorm
from openwork.core.chosen import check_model, choose_weights
from openwork.core.masks.technique import MaskTechnique
from openwork.core.mechanism import Calibrate
from openwork.core.selection import Selection, weight_matrices
from openwork.core.snapshot import snapshot
from openwork.core.sparsify import sparsify


@dataclass(frozen=True)
class Pruned:
    """What `prune` did to a model.

    Args:
        sparsity: The fraction of zeros among the selected weights, 0-1.
        before: The metric of the model as it was; None where `prune` got no ``evaluate``, as are the others.
        after: The metric of the pruned model.
        recalibrated: The metric with the batch-norm statistics of the pruned model; None where `prune` got no batches.
    """

    sparsity: float
    before: float | None
    after: float | None
    recalibrated: float | None

    def __str__(self) -> str:
        if self.before is None:
            return f"{self.sparsity:.2%} sparsity"
        last = "" if self.recalibrated is None else f", {self.recalibrated:.4f} with recalibrated batch norms"
        return f"{self.sparsity:.2%} sparsity: {self.before:.4f} before, {self.after:.4f} after{last}"


def prune(
    model: nn.Module,
    technique: MaskTechnique,
    evaluate: Callable[[nn.Module], float] | None = None,
    *,
    batches: Iterable[Any] | None = None,
    select: Selection = weight_matrices,
    seed: int = 0,
    calibrate: Calibrate | None = None,
) -> Pruned:
    """Prunes ``model``, in place and once, to the technique's final sparsity, and measures before and after.

    Args:
        model: A trained model.
        technique: One that prunes before training, such as ``GradualMagnitude(OneShot(0.8))``.
        evaluate: model -> metric; it sets the evaluation mode that it needs. None measures nothing.
        batches: What `recalibrate_batchnorm` takes, such as a DataLoader.
        select: Which parameters become sparse, as in `sparsify`.
        seed: As in `sparsify`.
        calibrate: As in `sparsify`, for a technique that looks at inputs or gradients.

    Returns:
        The sparsity and the metrics.

    Raises:
        TypeError: If ``technique`` is no mask technique, ``evaluate`` is no function or returns no number, or a batch
            holds no input.
        ValueError: If the schedule prunes later. Whatever raises, even ``evaluate`` or ``batches``, leaves selected
            weights, buffers and training flags as they were.
    """
    check_model(model)
    if not isinstance(technique, MaskTechnique):
        raise TypeError(f"prune takes a technique with masks such as GradualMagnitude(OneShot(0.8)), got {technique!r}")
    schedule = technique.schedule
    if not schedule.due(0) or schedule(0) != schedule.final or schedule.final == 0:
        raise ValueError(f"{schedule} does not reach a sparsity at once; use OneShot(sparsity)")
    if evaluate is not None and not callable(evaluate):
        raise TypeError(
            f"evaluate must be a function model -> metric, got a {type(evaluate).__name__}; a loader is batches=loader"
        )
    weights = [weight.parameter for weight in choose_weights(model, select)[0]]
    restore, values = snapshot(model), [weight.detach().clone() for weight in weights]
    try:
        before = _measured(evaluate, model)
        sparsifier = sparsify(model, technique, select=select, seed=seed, calibrate=calibrate)
        sparsity = sparsifier.sparsity()
        sparsifier.finalize()
        after = _measured(evaluate, model)
        if batches is None:
            return Pruned(sparsity, before, after, None)
        recalibrate_batchnorm(model, batches)
        return Pruned(sparsity, before, after, _measured(evaluate, model))
    except BaseException:
        restore()
        with torch.no_grad():
            for weight, value in zip(weights, values, strict=True):
                weight.copy_(value)
        raise


def _measured(evaluate: Callable[[nn.Module], float] | None, model: nn.Module) -> float | None:
    """The metric as a plain number. Raises TypeError where it is no single one."""
    if evaluate is None:
        return None
    metric: Any = evaluate(model)
    if isinstance(metric, torch.Tensor):
        metric = metric.detach()
    shape = tuple(getattr(metric, "shape", ()))
    if not hasattr(metric, "__float__") or math.prod(shape) != 1:
        raise TypeError(f"evaluate must return one number, got {f'the shape {shape}' if shape else repr(metric)}")
    return float(metric)
