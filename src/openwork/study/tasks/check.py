"""What is checked of a task before anything is trained."""

import math
import re
from dataclasses import Field, fields, is_dataclass
from typing import Any, get_args

import torch

from openwork.study.evaluation.metric import DataName, Metric
from openwork.study.tasks.measure import metrics
from openwork.study.tasks.task import Task
from openwork.words import printable

_SIZES = re.compile(r"batch_size|part_size|rows|length|width|heads")
_RATES = re.compile(r"(.*_)?(rate|decay|l2|dropout|smoothing|warm_?up)")
_PROBABILITIES = re.compile(r"(.*_)?(dropout|smoothing)")


def check_numbers(task: Task) -> None:
    """Checks the fields whose names say what they may be: sizes such as ``batch_size``, and rates such as ``l2``.

    Raises:
        ValueError: If a number is not finite, a size is not positive, a rate is negative, or a probability is not below
            1.
    """
    settings: tuple[Field[Any], ...] = fields(task) if is_dataclass(task) else ()
    for field in settings:
        name, value = field.name, getattr(task, field.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value):
            wanted = "a finite number"
        elif _SIZES.fullmatch(name) and value <= 0:
            wanted = "more than 0"
        elif _RATES.fullmatch(name) and value < 0:
            wanted = "at least 0"
        elif _PROBABILITIES.fullmatch(name) and value >= 1:
            wanted = "below 1"
        else:
            continue
        raise ValueError(f"{name} of {type(task).__name__} must be {wanted}, got {value}; change task.{name}")


def check_data(task: Task) -> None:
    """Checks that the task says on which data it is watched and judged.

    Raises:
        ValueError: If it names any other data.
    """
    for name in ("watched_on", "judged_on"):
        if (data := getattr(task, name)) not in get_args(DataName):
            raise ValueError(
                f"{name} of {type(task).__name__} must be 'test' or 'validation', got {data!r}; choose one"
            )


def check_task(task: Task) -> None:
    """Checks what needs no data: that the task declares its metric, and that title and learning rates make sense.

    Raises:
        ValueError: If it does not, the title is not one line of text, or a rate is negative or not finite.
    """
    if not isinstance(task.title, str) or not task.title.strip() or printable(task.title) != task.title:
        raise ValueError(
            f"the title of {type(task).__name__} must be printable text in one line, got {task.title!r}; change it"
        )
    metric = task.metric
    if not isinstance(metric, Metric):
        raise ValueError(f"the metric of {type(task).__name__} must be a Metric such as ACCURACY, got {metric!r}")
    for progress in (0.0, 0.25, 0.5, 0.75, 0.999):
        rate = task.learning_rate(progress)
        if not 0 <= rate < math.inf:  # nor NaN
            raise ValueError(
                f"the learning rate of {task.title} must be finite and at least 0, got {rate} when {progress:.0%} of "
                "the steps are done; change it in learning_rate"
            )


def try_evaluation(task: Task, device: torch.device) -> None:
    """Makes a model and its optimizer, and checks that `Task.evaluate` returns the task's metric.

    Random numbers stay as they were. Does nothing where that would be slow (`Task.evaluates_quickly`), and evaluates
    nothing where `Task.test` measures more, which takes longer.

    Raises:
        ValueError: If it does not return it. Whatever the task's own code raises.
    """
    if not task.evaluates_quickly:
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        model = task.model().to(device)
        task.optimizer(model)
        if not task.tests_more:
            metrics(task, model, device)
