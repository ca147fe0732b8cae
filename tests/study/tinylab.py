"""Experiments of a few milliseconds, as a user would write them; tests also copy this file into a user's folder."""

import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import openwork as ow
from openwork.core.seeding import seeded_generator
from openwork.study.evaluation.metric import ACCURACY
from openwork.study.runs.origin import Pretrained
from openwork.study.runs.run import Run
from openwork.study.tasks.task import Task

Batch = tuple[Tensor, Tensor]
TEST = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 1.0]])
PRUNE = ow.GradualMagnitude(ow.OneShot(0.5, at=5))


@dataclass(frozen=True)
class Tiny(Task):
    """Whether the first of two numbers is positive: four weights.

    Where the environment names a JOURNAL, each attempt at a run adds a line to it: seed, first step, process, time.
    """

    title: str = "tiny"

    metric = ACCURACY

    def model(self) -> nn.Module:
        return nn.Linear(2, 2, bias=False)

    def optimizer(self, model: nn.Module, sparsifier: ow.Sparsifier | None = None) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def learning_rate(self, progress: float) -> float:
        return 0.1 * (1 - progress)

    def batches(self, seed: int, start: int, device: torch.device) -> Iterator[Batch]:
        if journal := os.environ.get("JOURNAL"):
            with open(journal, "a") as file:
                file.write(f"{seed} {start} {os.getpid()} {time.time()}\n")
        while True:
            x = torch.randn(4, 2, generator=seeded_generator(seed, start, "batch"))
            yield x.to(device), (x[:, 0] > 0).long().to(device)
            start += 1

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def example(self, device: torch.device) -> Tensor:
        return TEST[:1].to(device)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        logits, labels = model(TEST.to(device)), (TEST[:, 0] > 0).long().to(device)
        accuracy = (logits.argmax(1) == labels).float().mean()
        return {"accuracy": accuracy.item(), "loss": F.cross_entropy(logits, labels).item()}


@dataclass(frozen=True)
class Still(Tiny):
    """Evaluates without noise."""

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        model.eval()
        found = super().evaluate(model, device)
        model.train()
        return found


@dataclass(frozen=True)
class Failing(Tiny):
    """Raises unless there is a file of that name."""

    unless: str = "repaired"

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        if not Path(self.unless).exists():
            raise RuntimeError("the loss is wrong")
        return super().loss(model, batch)


@dataclass(frozen=True)
class Diverging(Tiny):
    """NaN from the first step on."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().loss(model, batch) * math.nan


@dataclass(frozen=True)
class Dying(Tiny):
    """Kills its own process, ``times`` times, which it counts by files in the folder."""

    folder: str = "."
    times: int = 1

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        for number in range(self.times):
            mark = Path(self.folder) / f"died-{self.times}-{number}"
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(model, batch)


@dataclass(frozen=True)
class Slow(Tiny):
    """Sleeps in each step."""

    seconds: float = 0.05

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        time.sleep(self.seconds)
        return super().loss(model, batch)


def grid() -> list[Run]:
    """Twelve runs of 20 steps."""
    return [Run(Tiny(), technique, steps=20, seed=seed) for technique in (None, PRUNE) for seed in range(6)]


def mixed() -> list[Run]:
    """Runs that finish, that fail, that diverge, and that start from each of these."""
    starts = [Run(Tiny(), None, steps=3), Run(Failing(), None, steps=4), Run(Diverging(), None, steps=4)]
    return [Run(Tiny(), PRUNE, steps=20, origin=Pretrained(start)) for start in starts]


def slow() -> list[Run]:
    """Four runs of a second."""
    return [Run(Slow(), PRUNE, steps=20, seed=seed) for seed in range(4)]


def thousands() -> list[Run]:
    """4,000 runs, each with another seed."""
    return [Run(Tiny(), (None, PRUNE)[seed % 2], steps=30, seed=seed) for seed in range(4_000)]
