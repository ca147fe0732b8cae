"""Tasks and techniques with something odd that are trained as one model all the same."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

import openwork as ow
from openwork.study.tasks.lenet import DigitsLeNet300100
from tests.study.tinylab import Batch, Still, Tiny


@dataclass(frozen=True)
class Spare(Tiny):
    """A parameter that the loss does not use."""

    def model(self) -> nn.Module:
        model = super().model()
        model.spare = nn.Parameter(torch.zeros(3))
        return model


@dataclass(frozen=True)
class Frozen(Still):
    """Three layers, of which one is not trained, or only a part of it, and a fourth that is never called."""

    part: str = "0"

    def model(self) -> nn.Module:
        model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        model[0].uncalled = nn.Linear(3, 3)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not f"{name}.".startswith(f"{self.part}."))
        return model


@dataclass(frozen=True)
class OfMoreMetrics(DigitsLeNet300100):
    """Evaluates in its own way."""

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        return {**super().evaluate(model, device), "twice": 2.0}


@dataclass(frozen=True)
class OfItsOwnOrder(Tiny):
    """The seed of its batches may be given, and is counted from 1,000."""

    order: int | None = field(default=None, kw_only=True)
    varying: ClassVar[tuple[str, ...]] = ("order",)

    def batch_seed(self, seed: int) -> int:
        return 1_000 + (seed if self.order is None else self.order)

    def batches(self, seed: int, start: int, device: torch.device) -> Iterator[Batch]:
        return super().batches(self.batch_seed(seed), start, device)


@dataclass(frozen=True)
class Centered(Still):
    """A scalar parameter, with Adam."""

    def model(self) -> nn.Module:
        return Shifted()

    def optimizer(self, model: nn.Module, sparsifier: ow.Sparsifier | None = None) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=0.1)


class Shifted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.shift = nn.Linear(2, 2, bias=False), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x - self.shift)


@dataclass(frozen=True)
class Rated(Tiny):
    """A learning rate of its own."""

    rate: float = 0.1
    varying: ClassVar[tuple[str, ...]] = ("rate",)

    def learning_rate(self, progress: float) -> float:
        return self.rate


@dataclass(frozen=True)
class Powered(ow.MaskTechnique):
    """Scores computed one by one in Python, with a number of its own that may differ between the runs of a fleet."""

    power: float = 1.0
    varying: ClassVar[tuple[str, ...]] = ("schedule", "power")

    def scores(self, view: ow.View) -> Tensor:
        values = [
            abs(value) ** self.power if value > 0 else 0.5 * abs(value) for value in view.weight.flatten().tolist()
        ]
        return torch.tensor(values).view_as(view.weight)
