"""Tasks whose Python differs between runs that differ in numbers alone; each is right where a run is trained alone."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from operator import methodcaller
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tests.study.tinylab import Batch, Still


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


def object_made_here(scale: float) -> Callable[[Tensor], Tensor]:
    class Made:
        def __call__(self, x: Tensor) -> Tensor:
            return scaled(x, scale)

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


class Slotted:
    """Without a dictionary."""

    __slots__ = ("scale",)

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, x: Tensor) -> Tensor:
        return scaled(x, self.scale)


class Settings(dict[str, float]):
    """Keeps an attribute beside its items."""


def of_settings(scale: float) -> Callable[[Tensor], Tensor]:
    settings: Any = Settings()  # as whoever gives it an attribute sees it
    settings.scale = scale
    return lambda x: scaled(x, settings.scale)


def of_itself(scale: float) -> Callable[[Tensor], Tensor]:
    def function(x: Tensor) -> Tensor:
        return scaled(x, own.scale)

    own: Any = function
    own.scale = scale
    return function


def in_order(scale: float) -> nn.Module:
    layers = [("layer", nn.Linear(8, 8)), ("tanh", nn.Tanh())]
    return nn.Sequential(OrderedDict(layers if scale < 1 else layers[::-1]))


def sharing_a_module(scale: float) -> nn.Module:
    one, other = nn.Linear(8, 8), nn.Linear(8, 8)
    return nn.Sequential(one, other, one if scale < 1 else other)


def sharing_a_weight(scale: float) -> nn.Module:
    layers = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    layers[2].weight = layers[0 if scale < 1 else 1].weight
    return layers


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
    "object of a class made anew": object_made_here,
    "hook": hooked,
    "tensor": unregistered,
    "frozen": frozen,
    "slots": Slotted,
    "settings": of_settings,
    "function's attribute": of_itself,
    "methodcaller": lambda scale: methodcaller("clamp", max=scale),
    "order": in_order,
    "shared module": sharing_a_module,
    "shared weight": sharing_a_weight,
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


@dataclass(frozen=True)
class Decayed(Still):
    """What it computes reads a number that may differ, against what `Task.varying` asks."""

    l2: float = 0.0
    where: str = "loss"
    varying: ClassVar[tuple[str, ...]] = ("l2",)

    @property
    def twice(self) -> float:
        return 2 * self.l2

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        found = {"loss": lambda: self.l2, "property": lambda: self.twice / 2}.get(self.where, lambda: 0.0)()
        return super().loss(model, batch) + found * sum(p.square().sum() for p in model.parameters())

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        return super().evaluate(model, device) | {"l2": self.l2 if self.where == "evaluate" else 0.0}

    def test(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        return self.evaluate(model, device) | {"l2": self.l2 if self.where == "test" else 0.0}


@cache
def _of_task(task: "Cached") -> float:
    return task.l2


@dataclass(frozen=True)
class Cached(Decayed):
    """It has made of its number what it reads."""

    made: float = field(init=False, default=0.0)
    where: str = "post init"

    def __post_init__(self) -> None:
        object.__setattr__(self, "_made", self.l2)

    @cached_property
    def lazy(self) -> float:
        return self.l2

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        found: Any = {"post init": lambda: self._made, "lazy": lambda: self.lazy, "cache": lambda: _of_task(self)}  # type: ignore[attr-defined]
        return super().loss(model, batch) + found[self.where]() * sum(p.square().sum() for p in model.parameters())


@dataclass(frozen=True)
class Noisy(Still):
    """Its batches read a number that may differ, from the first one on or later."""

    noise: float = 0.0
    after: int = 0
    order: int | None = None
    rate: float = 0.1
    varying: ClassVar[tuple[str, ...]] = ("noise", "order", "rate")

    def batch_seed(self, seed: int) -> int:
        return seed if self.order is None else self.order

    def batches(self, seed: int, start: int, device: torch.device) -> Iterator[Batch]:
        for step, (x, y) in enumerate(super().batches(self.batch_seed(seed), start, device), start):
            yield (x + self.noise * x.flip(0) if step >= self.after else x), y

    def learning_rate(self, progress: float) -> float:
        return self.rate


@dataclass(frozen=True)
class OfTwoSeeds(Noisy):
    """Its batches depend on the seed beside that of `batch_seed`."""

    order: int | None = 3

    def batches(self, seed: int, start: int, device: torch.device) -> Iterator[Batch]:
        for x, y in super().batches(seed, start, device):
            yield x + seed, y
