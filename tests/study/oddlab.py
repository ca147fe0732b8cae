"""Tasks that cannot be trained as one model, or only with care."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import openwork as ow
from openwork.study.tasks.lenet import DigitsLeNet300100
from openwork.study.tasks.parts import Parts
from tests.study.tinylab import Batch, Tiny


@dataclass(frozen=True)
class Still(Tiny):
    """Evaluates without noise."""

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        model.eval()
        found = super().evaluate(model, device)
        model.train()
        return found


@dataclass(frozen=True)
class Asking(Tiny):
    """Its loss asks for its own value."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        loss = super().loss(model, batch)
        return loss * 2 if loss.item() > 0.5 else loss


@dataclass(frozen=True)
class Branching(Tiny):
    """Its loss has a branch that depends on its value."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        loss = super().loss(model, batch)
        return loss * 2 if loss > 0.5 else loss


@dataclass(frozen=True)
class Drawing(Tiny):
    """Its loss draws from torch's generator."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().loss(model, batch) * (1 + torch.randn(()))


@dataclass(frozen=True)
class Dropping(Tiny):
    """torch's own dropout, which draws from torch's generator."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 2))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.hidden, self.out = kind(2, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hidden(x[:, None].expand(-1, 3, -1))[0][:, -1])


@dataclass(frozen=True)
class Lstm(Tiny):
    def model(self) -> nn.Module:
        return Recurrent(nn.LSTM)


@dataclass(frozen=True)
class Gru(Tiny):
    def model(self) -> nn.Module:
        return Recurrent(nn.GRU)


@dataclass(frozen=True)
class InParts(Tiny):
    """Its batches are parts."""

    def batches(self, seed: int, start: int, device: torch.device) -> Iterator[Parts]:
        return (Parts([batch], 0, 1) for batch in super().batches(seed, start, device))


@dataclass(frozen=True)
class InSharedParts(InParts):
    """All runs see the same."""

    def batch_seed(self, seed: int) -> int:
        return 3

    def batches(self, seed: int, start: int, device: torch.device) -> Iterator[Parts]:
        return super().batches(self.batch_seed(seed), start, device)


class Late(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "late"):
            self.register_buffer("late", torch.ones(2))
        return super().forward(x) * self.late


@dataclass(frozen=True)
class LateBuffer(Tiny):
    """Its model has a buffer once it was called."""

    def model(self) -> nn.Module:
        return Late(2, 2)


@dataclass(frozen=True)
class NotElementwise(Tiny):
    """Adafactor's step of one number depends on others."""

    def optimizer(self, model: nn.Module, sparsifier: ow.Sparsifier | None = None) -> torch.optim.Optimizer:
        return torch.optim.Adafactor(model.parameters(), lr=0.1)


@dataclass(frozen=True)
class OfAnyWidth(Tiny):
    """A network whose width its seed decides."""

    def model(self) -> nn.Module:
        width = int(torch.randint(2, 9, ()))
        return nn.Sequential(nn.Linear(2, width), nn.Linear(width, 2))


@dataclass(frozen=True)
class OfGivenWidth(Tiny):
    """A network whose width is among the numbers that may differ, says the task."""

    hidden: int = 2
    varying: ClassVar[tuple[str, ...]] = ("hidden",)

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(2, self.hidden), nn.Linear(self.hidden, 2))


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
class Ending(Tiny):
    """Seven batches."""

    def batches(self, seed: int, start: int, device: torch.device) -> Iterator[Batch]:
        for _, batch in zip(range(7 - start), super().batches(seed, start, device), strict=False):
            yield batch


class Scaled(nn.Module):
    """A linear layer, times a number that is no tensor of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = float(torch.rand(()))
        self.linear = nn.Linear(2, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.scale


@dataclass(frozen=True)
class ScaledBySeed(Tiny):
    """Each model has a number of its own that is no tensor."""

    def model(self) -> nn.Module:
        return Scaled()


class ScaledByNext(Scaled):
    """The number is hidden where it cannot be compared."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = repeat(self.__dict__.pop("scale"))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * next(self.scales)


@dataclass(frozen=True)
class ScaledByIterator(Tiny):
    """Each model has a number of its own that an iterator gives."""

    def model(self) -> nn.Module:
        return ScaledByNext()


@dataclass(frozen=True)
class Smoothed(Tiny):
    """Its loss reads a number that may differ, against what `Task.varying` asks."""

    smoothing: float = 0.0
    varying: ClassVar[tuple[str, ...]] = ("smoothing",)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1], label_smoothing=self.smoothing)


@dataclass(frozen=True)
class HookedGradients(Tiny):
    """A hook of its parameter clips the gradient."""

    def model(self) -> nn.Module:
        model = super().model()
        model.weight.register_hook(lambda gradient: gradient.clamp(-0.01, 0.01))
        return model


@dataclass(frozen=True)
class HookedOutputs(Tiny):
    """A hook clips the gradient of what the model computes, which no small gradient shows."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        outputs = model(batch[0])
        if outputs.requires_grad:
            outputs.register_hook(lambda gradient: gradient.clamp(-100, 100))
        return F.cross_entropy(outputs, batch[1])


@dataclass(frozen=True)
class HookedOptimizer(Tiny):
    """A hook of its optimizer clips the norm of the gradients."""

    def optimizer(self, model: nn.Module, sparsifier: ow.Sparsifier | None = None) -> torch.optim.Optimizer:
        optimizer = super().optimizer(model, sparsifier)

        def clip(optimizer: torch.optim.Optimizer, *_: object) -> None:
            nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 0.01)

        optimizer.register_step_pre_hook(clip)
        return optimizer


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
class Jitter(ow.MaskTechnique):
    """Scores with noise of torch's own generator, which depends on all that was drawn before."""

    def scores(self, view: ow.View) -> Tensor:
        return view.weight.abs() + torch.rand(view.weight.shape)


@dataclass(frozen=True)
class Hazard(ow.MaskTechnique):
    """Scores of torch's own generator, half of which are no numbers."""

    def scores(self, view: ow.View) -> Tensor:
        return torch.rand(view.weight.shape) + (torch.nan if torch.rand(()) < 0.5 else 0)


@dataclass(frozen=True)
class DyingIfMasked(Still):
    """Its loss is no number once the first weight is masked."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().loss(model, batch) * torch.where(model.weight[0, 0] == 0, torch.nan, 1.0)


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


@dataclass(frozen=True)
class Closure(Tiny):
    """LBFGS, which calls the loss itself, and alone fails for want of it."""

    def optimizer(self, model: nn.Module, sparsifier: ow.Sparsifier | None = None) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(model.parameters(), lr=0.1)


@dataclass(frozen=True)
class Rated(Tiny):
    """A learning rate of its own."""

    rate: float = 0.1
    varying: ClassVar[tuple[str, ...]] = ("rate",)

    def learning_rate(self, progress: float) -> float:
        return self.rate


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
class WithoutNumbers(ow.MaskTechnique):
    """Scores that are no numbers, if it is bad."""

    bad: bool = False
    varying: ClassVar[tuple[str, ...]] = ("schedule", "bad")

    def scores(self, view: ow.View) -> Tensor:
        return view.weight.abs() * (torch.nan if self.bad else 1)


def assert_near(ours: Path, theirs: Path) -> None:
    """Compares two files of weights, up to the rounding of sums."""
    weights, expected = load_file(ours), load_file(theirs)
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=2e-5)


@dataclass(frozen=True)
class DyingBySeed(Tiny):
    """Kills its own process where its batches are those of seed 1."""

    def batches(self, seed: int, start: int, device: torch.device) -> Iterator[Batch]:
        if seed == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batches(seed, start, device)
