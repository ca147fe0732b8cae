"""How the models of a task are measured, and what it may return."""

import math

import torch
from torch import nn

from openwork.study.evaluation.metric import TAKEN
from openwork.study.tasks.stacked import has_own
from openwork.study.tasks.task import Models, Task


def metrics(task: Task, model: nn.Module, device: torch.device) -> dict[str, float]:
    """Metrics of a model while it trains, as `Task.evaluate` measures them.

    Raises:
        ValueError: If the task's metric is not among them, and `Task.test` measures no more than that.
    """
    found = task.evaluate(model, device)
    if not task.tests_more:
        _check(task, found, "evaluate")
    return found


def final_metrics(task: Task, model: nn.Module, device: torch.device) -> dict[str, float]:
    """Metrics of a trained model, as `Task.test` measures them.

    Raises:
        ValueError: If the task's metric is not among them.
    """
    found = task.test(model, device)
    _check(task, found, "test")
    return found


def metrics_of(task: Task, models: Models, device: torch.device) -> list[dict[str, float]]:
    """What `metrics` returns for each of several models."""
    if has_own(task, "evaluate_stacked", "evaluate"):
        found = task.evaluate_stacked(models, device)
    else:
        found = [task.evaluate(model, device) for model in models.each]
    if not task.tests_more:
        for each in found:
            _check(task, each, "evaluate")
    return found


def final_metrics_of(task: Task, models: Models, device: torch.device) -> list[dict[str, float]]:
    """What `final_metrics` returns for each of several models."""
    if has_own(task, "test_stacked", "test") and has_own(task, "test_stacked", "evaluate"):
        found = task.test_stacked(models, device)
    else:
        found = [task.test(model, device) for model in models.each]
    for each in found:
        _check(task, each, "test")
    return found


def _check(task: Task, found: object, method: str) -> None:
    key = task.metric.key
    if not isinstance(found, dict):
        raise ValueError(
            f"{method} of {task.title} must return metrics by name, got {found!r}; return {{{key!r}: value}}"
        )
    if taken := sorted(TAKEN & found.keys()):
        raise ValueError(
            f"{method} of {task.title} returns {', '.join(taken)}, which a run writes itself; give it another name"
        )
    if key not in found:
        raise ValueError(
            f"{task.title} is judged by {key!r}, but its {method} returns {', '.join(found) or 'nothing'}; return it "
            f"there, or declare another metric in {type(task).__name__}"
        )
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(
                f"{name!r} of {task.title} must be a float, got {value!r} from its {method}; convert it there"
            )
    value = found[key]
    # A model that diverged is another matter: its run is recorded as such.
    if math.isfinite(value) and (problem := task.metric.misfit(value)):
        raise ValueError(
            f"{key!r} of {task.title} {problem} from its {method}; return it so, or declare another metric"
        )
