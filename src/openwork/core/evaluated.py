"""The metric of a model, as a user's function measures it."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Evaluate = Callable[[nn.Module], float]
"""model -> metric."""


def check_evaluate(evaluate: object) -> None:
    """Raises TypeError for what is no function."""
    if not callable(evaluate):
        raise TypeError(
            f"evaluate must be a function model -> metric, got a {type(evaluate).__name__}; a loader is batches=loader"
        )


def metric_of(evaluate: Evaluate, model: nn.Module) -> float:
    """The metric as a plain number. Raises TypeError where it is no single one."""
    metric: Any = evaluate(model)
    if isinstance(metric, Tensor):
        metric = metric.detach()
    shape = tuple(getattr(metric, "shape", ()))
    if not hasattr(metric, "__float__") or math.prod(shape) != 1:
        raise TypeError(f"evaluate must return one number, got {f'the shape {shape}' if shape else repr(metric)}")
    return float(metric)
