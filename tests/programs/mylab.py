"""A user's module of experiments, which `test_cli.py` copies into a folder."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import openwork as ow
from openwork.study.runs.origin import Pretrained
from openwork.study.runs.run import Run
from openwork.study.tasks.lenet import DigitsLeNet300100

Batch = tuple[Tensor, Tensor]


def variational() -> Run:
    return Run(DigitsLeNet300100(), ow.VariationalDropout(ow.Constant(1e-4)), steps=40)


def two() -> list[Run]:
    return [Run(DigitsLeNet300100(), ow.RandomPruning(ow.OneShot(0.5)), steps=10, seed=seed) for seed in (0, 1)]


def pretrained() -> list[Run]:
    prune, start = ow.RandomPruning(ow.OneShot(0.5)), Pretrained(Run(DigitsLeNet300100(), None, steps=5))
    return [Run(DigitsLeNet300100(), prune, steps=n, origin=start) for n in (6, 7)]


def with_argument(x: Run) -> Run:
    return x


def not_a_run() -> int:
    return 3


@dataclass(frozen=True)
class Mine(DigitsLeNet300100):
    title = "my own task"


@dataclass(frozen=True)
class Exploding(DigitsLeNet300100):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().loss(model, batch) * float("nan")


@dataclass(frozen=True)
class Deterministic(DigitsLeNet300100):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        exact = torch.are_deterministic_algorithms_enabled()
        return super().loss(model, batch) * (1.0 if exact else float("nan"))


def deterministic() -> Run:
    return Run(Deterministic(), None, steps=4)


def diverging() -> Run:
    return Run(Exploding(), None, steps=4)


def mine() -> Run:
    return Run(Mine(), None, steps=4)
