"""Small networks to train as fleets."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from torch.nn import functional as F

import openwork as ow
from openwork.study.evaluation.metric import ACCURACY
from openwork.study.runs.run import Run
from openwork.study.tasks.task import Task

STEPS = 8
PRUNE = ow.GradualMagnitude(ow.Cubic(0.8, begin=1, end=6, every=2))


class Twice(nn.Module):
    """A layer that is called twice, and one that is called on sequences."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(self.first(x.view(len(x), 3, 4)))
        x = F.relu(self.second(F.relu(self.second(x))))
        return self.last(x.mean(1))


class Tied(nn.Module):
    """Two layers with one weight, and one of their own."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.last(F.relu(self.second(F.relu(self.first(x)))))


class Frozen(nn.Module):
    """Two layers, of which one has a bias that is not trained."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(12, 7), nn.Linear(7, 3)
        self.first.bias.requires_grad_(False)

    def forward(self, x):
        return self.last(F.relu(self.first(x)))


MODELS = {
    "plain": lambda: nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 9), nn.ReLU(), nn.Linear(9, 3)),
    "no bias": lambda: nn.Sequential(nn.Linear(12, 7, bias=False), nn.ReLU(), nn.Linear(7, 3)),
    "one layer": lambda: nn.Linear(12, 3),
    "twice": Twice,
    "tied": Tied,
    "frozen": Frozen,
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 3, 4)), nn.Conv2d(1, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(24, 7), nn.Linear(7, 3)
    ),
}


@dataclass(frozen=True)
class Small(Task):
    """Which of three sums of 12 numbers is the largest."""

    kind: str = "plain"
    rate: float = 0.01
    order: int | None = None
    optimizers: Callable[..., torch.optim.Optimizer] = field(default=torch.optim.Adam)
    title = "small"
    metric = ACCURACY
    varying = ("rate",)

    def model(self):
        return MODELS[self.kind]()

    def optimizer(self, model, sparsifier=None):
        return self.optimizers(model.parameters(), lr=self.rate)

    def learning_rate(self, progress):
        return self.rate * (1 - progress)

    def batch_seed(self, seed):
        return seed if self.order is None else self.order

    def batches(self, seed, start, device):
        while True:
            x = torch.randn(5, 12, generator=torch.Generator().manual_seed(1000 * seed + start)).to(device)
            yield x, x.view(5, 3, 4).sum(2).argmax(1)
            start += 1

    def loss(self, model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    def example(self, device):
        return torch.zeros(1, 12, device=device)

    def evaluate(self, model, device):
        return {"accuracy": 0.0}


def runs(task, technique=None, rates=(0.01, 0.01, 0.01)):
    return [Run(replace(task, rate=rate), technique, steps=STEPS, seed=n) for n, rate in enumerate(rates)]


def assert_close(one, other):
    for name, tensor in one.stack.parameters.items():
        assert torch.allclose(tensor, other.stack.parameters[name], rtol=1e-4, atol=1e-5), name
