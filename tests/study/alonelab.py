"""Tasks and techniques that cannot be stacked: their runs are trained alone, or those that fill a device in turn."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import openwork as ow
from openwork.study.tasks.parts import Parts
from tests.study.tinylab import Batch, Tiny


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
class Jitter(ow.MaskTechnique):
    """Scores with noise of torch's own generator, which depends on all that was drawn before."""

    def scores(self, view: ow.View) -> Tensor:
        return view.weight.abs() + torch.rand(view.weight.shape)


@dataclass(frozen=True)
class Hazard(ow.MaskTechnique):
    """Scores of torch's own generator, half of which are no numbers."""

    def scores(self, view: ow.View) -> Tensor:
        return torch.rand(view.weight.shape) + (torch.nan if torch.rand(()) < 0.5 else 0)
