"""Statistics of batch norms, computed again from the data that a run was trained on."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from openwork.core.batchnorm import recalibrate_batchnorm
from openwork.study.runs.run import Run
from openwork.study.tasks.parts import Parts
from openwork.study.tasks.task import Task


@dataclass(frozen=True)
class _Whole:
    """A batch of a task, of which the loss takes all: a loader's (x, y) would be cut down to x."""

    batch: Any


class _Loss(nn.Module):
    """A model that takes a task's batches, prepared as in training."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, whole: _Whole) -> Tensor:
        return self.task.loss(self.model, whole.batch)


def recalibrate(run: Run, model: nn.Module, device: torch.device, batches: int) -> None:
    """Replaces the running statistics of ``model``'s batch norms by their means over the run's first training batches.

    Training with noise in weights or activations leaves statistics that the finalized model, without noise, does not
    have.

    Args:
        run: The run, whose task and seed give the batches.
        model: Its finalized model.
        device: Where the model is.
        batches: How many training batches to average over.

    Raises:
        ValueError: As `recalibrate_batchnorm` does, for example for a model without batch norms.
    """
    recalibrate_batchnorm(_Loss(run.task, model), _parts(islice(run.task.batches(run.seed, 0, device), batches)))


def _parts(batches: Iterator[Any]) -> Iterator[_Whole]:
    for batch in batches:
        yield from map(_Whole, batch.batches if isinstance(batch, Parts) else [batch])
