"""Tasks and techniques of which all or some runs fail, diverge or kill their process."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

import openwork as ow
from tests.study.tinylab import Batch, Still, Tiny


@dataclass(frozen=True)
class WithoutData(Tiny):
    """Its data are not there."""

    def batches(self, seed: int, start: int, device: torch.device) -> Iterator[Batch]:
        raise FileNotFoundError("no such data")


@dataclass(frozen=True)
class WithoutMetric(Tiny):
    """Its evaluation does not return what it is judged by."""

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        return {"loss": 0.5}


@dataclass(frozen=True)
class Refusing(Tiny):
    """Its evaluation raises where the model has diverged."""

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        found = super().evaluate(model, device)
        if found["loss"] != found["loss"]:
            raise RuntimeError("not a number")
        return found


@dataclass(frozen=True)
class Ending(Tiny):
    """Seven batches."""

    def batches(self, seed: int, start: int, device: torch.device) -> Iterator[Batch]:
        for _, batch in zip(range(7 - start), super().batches(seed, start, device), strict=False):
            yield batch


@dataclass(frozen=True)
class Closure(Tiny):
    """LBFGS, which calls the loss itself, and alone fails for want of it."""

    def optimizer(self, model: nn.Module, sparsifier: ow.Sparsifier | None = None) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(model.parameters(), lr=0.1)


@dataclass(frozen=True)
class DyingIfMasked(Still):
    """Its loss is no number once the first weight is masked."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().loss(model, batch) * torch.where(model.weight[0, 0] == 0, torch.nan, 1.0)


@dataclass(frozen=True)
class Poisoned(Still):
    """Seed 1 begins with a weight that is not a number, or that is infinite."""

    value: str = "nan"

    def model(self) -> nn.Module:
        model = super().model()
        if torch.initial_seed() == 1:
            model.weight.data[0, 0] = float(self.value)
        return model


@dataclass(frozen=True)
class DyingBySeed(Tiny):
    """Kills its own process where its batches are those of seed 1."""

    def batches(self, seed: int, start: int, device: torch.device) -> Iterator[Batch]:
        if seed == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batches(seed, start, device)


@dataclass(frozen=True)
class WithoutNumbers(ow.MaskTechnique):
    """Scores that are no numbers, if it is bad."""

    bad: bool = False
    varying: ClassVar[tuple[str, ...]] = ("schedule", "bad")

    def scores(self, view: ow.View) -> Tensor:
        return view.weight.abs() * (torch.nan if self.bad else 1)
