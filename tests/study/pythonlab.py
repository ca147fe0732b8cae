"""Tasks whose Python differs between runs that differ in numbers alone; each is right where a run is trained alone."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from tests.study.oddlab import Still


class Net(nn.Module):
    """Two layers with something between them."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.between, self.last = nn.Linear(2, 8), between, nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


class Local(nn.Module):
    """Something that uses a number; how it is kept decides what is compared."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.kept = [{"scale": scale}]

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x * self.kept[0]["scale"])


def scaled(x: Tensor, scale: float) -> Tensor:
    return torch.tanh(x * scale)


def made_here(scale: float) -> nn.Module:
    class Made(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x * scale)

    return Made()


def hooked(scale: float) -> nn.Module:
    module = nn.Tanh()
    module.register_forward_pre_hook(lambda _, inputs: (inputs[0] * scale,))
    return module


def unregistered(scale: float) -> Callable[[Tensor], Tensor]:
    weight = torch.full((8,), scale)
    return lambda x: torch.tanh(x * weight)


def frozen(scale: float) -> nn.Module:
    layer = nn.Linear(8, 8)
    layer.weight.requires_grad_(scale < 1)
    return layer


WAYS: dict[str, Callable[[float], Callable[[Tensor], Tensor]]] = {
    "attribute": nn.LeakyReLU,
    "nested": Local,
    "class": lambda scale: nn.ReLU() if scale < 1 else nn.Tanh(),
    "function": lambda scale: torch.relu if scale < 1 else torch.tanh,
    "lambda": lambda scale: (lambda x: x.relu()) if scale < 1 else (lambda x: x.tanh()),
    "closure": lambda scale: lambda x: torch.tanh(x * scale),
    "default": lambda scale: lambda x, scale=scale: torch.tanh(x * scale),
    "partial": lambda scale: partial(scaled, scale=scale),
    "method": lambda scale: Local(scale).forward,
    "class made anew": made_here,
    "hook": hooked,
    "tensor": unregistered,
    "frozen": frozen,
}


@dataclass(frozen=True)
class Wayward(Still):
    """A model of which a number is no tensor."""

    way: str = "attribute"
    scale: float = 0.5
    varying: ClassVar[tuple[str, ...]] = ("scale",)

    def model(self) -> nn.Module:
        return Net(WAYS[self.way](self.scale))


@dataclass(frozen=True)
class Coin(Still):
    """An activation that the seed decides."""

    def model(self) -> nn.Module:
        return Net((torch.relu, torch.tanh)[int(torch.randint(2, ()))])


class Counted(nn.Module):
    """Keeps something from its first forward pass, and may count those in training."""

    kept: Tensor | None

    def __init__(self, counts: bool) -> None:
        super().__init__()
        self.counts, self.passes, self.kept = counts, 0, None

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = torch.linspace(0.5, 1.5, 8)
        self.passes += self.training and self.counts
        return x * self.kept * (1 + 1 / (1 + self.passes))


@dataclass(frozen=True)
class Counting(Still):
    """A model whose Python is the same in all runs, and changes."""

    counts: bool = False

    def model(self) -> nn.Module:
        return Net(Counted(self.counts))
