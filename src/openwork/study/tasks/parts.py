"""Batches in parts, of which each process has some."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Parts:
    """A batch in equal parts, whose losses are averaged, and of which this process has some.

    A task whose batches are parts trains on any number of processes, and on few devices by accumulating gradients,
    always with the same result up to rounding: norms see one part at a time, and noise belongs to a part.

    Args:
        batches: This process's parts, each as `Task.loss` takes it.
        first: The number of the first of them in the batch.
        count: How many parts the batch has in all processes.
    """

    batches: Sequence[Any]
    first: int
    count: int


def refuse_parts(batch: Any, title: str) -> None:
    """Raises ValueError if a batch of the task of that title is in `Parts`, which cannot be stacked."""
    if isinstance(batch, Parts):
        raise ValueError(f"{title} divides its batches into parts, which cannot be stacked")
