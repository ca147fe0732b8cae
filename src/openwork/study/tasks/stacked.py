"""Batches of runs that are trained as one model, also of a task whose base class stacks other batches than its own."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from openwork.study.tasks.task import Task


def has_own(task: Task, stacked: str, method: str) -> bool:
    """Whether the task's ``stacked`` method knows its ``method``: no subclass has another one of that alone."""
    kinds = type(task).__mro__
    first = next(kind for kind in kinds if stacked in vars(kind) or method in vars(kind))
    return stacked in vars(first)


def stacked_batches(
    task: Task, tasks: Sequence[Task], seeds: Sequence[int], start: int, device: torch.device
) -> Iterator[Any]:
    """What `taking` makes the batches of runs of: `Task.stacked_batches`, unless a subclass has other batches."""
    if has_own(task, "stacked_batches", "batches"):
        return task.stacked_batches(tasks, seeds, start, device)
    return Task.stacked_batches(task, tasks, seeds, start, device)


def taking(task: Task, device: torch.device, dtype: torch.dtype | None = None) -> Callable[[Any], Any]:
    """`Task.taking` of the task, unless a subclass has batches that it does not know."""
    if has_own(task, "stacked_batches", "batches"):
        return task.taking(device, dtype)
    return Task.taking(task, device, dtype)
