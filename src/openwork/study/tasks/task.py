"""What a benchmark has to provide."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Parts:
    """A batch in ``count`` equal parts, whose losses are averaged; this process has those from number ``first`` on.

    A task whose batches are parts trains on any number of processes, and on few devices by accumulating gradients,
    always with the same result up to rounding: norms see one part at a time, and noise belongs to a part.
    """

    batches: Sequence[Any]
    first: int
    count: int


class Task(Protocol):
    """A benchmark as a frozen dataclass: its fields are part of a run's identity."""

    @property
    def title(self) -> str:
        """A short name for tables and pictures."""

    def model(self) -> nn.Module:
        """A freshly initialised model; draws from torch's global generator."""

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of all the model's parameters, made after what is sparse has been added to the model."""

    def learning_rate(self, progress: float) -> float:
        """The learning rate when the fraction ``progress`` in [0, 1) of the steps is done."""

    def batches(self, seed: int, start: int, device: torch.device) -> Iterator[Any]:
        """Endless training batches from step ``start`` on; the same ones for the same seed, whatever ``start``.

        Each is what `loss` takes, or `Parts` of it.
        """

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The mean loss of a batch, shape ()."""

    def example(self, device: torch.device) -> Any:
        """One example as the model's input, to count FLOPs with; a tuple is several arguments."""

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Metrics of the model, while it trains; at least "accuracy" (0-1) and "loss" (mean).

        They are those of the test set, unless the task has a method ``test`` with the same arguments.
        """


def final_metrics(task: Task, model: nn.Module, device: torch.device) -> dict[str, float]:
    """Metrics of a trained model on the test set: what the task's ``test`` gives where it has one, else `evaluate`.

    A task has it where the full measure is too dear to take while training, or training is to be watched on other data.
    """
    found: dict[str, float] = getattr(task, "test", task.evaluate)(model, device)
    return found
