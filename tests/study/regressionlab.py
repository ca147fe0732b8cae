"""A task as a user would write it with neither accuracy nor loss: it is judged by a squared error without bounds."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import openwork as ow
from openwork.core.seeding import seeded_generator
from openwork.study.evaluation.metric import Metric
from openwork.study.runs.run import Run
from openwork.study.tasks.task import Task

Batch = tuple[Tensor, Tensor]
COEFFICIENTS = torch.tensor([8.0, 4.0, 2.0, 1.0])


@dataclass(frozen=True)
class Line(Task):
    """Four coefficients of a line; the error of a test with noise of 1 is 1 and the sum of their squared errors.

    Args:
        title: Its title.
        broken: Make the loss infinite from the first step on.
    """

    title: str = "line"
    broken: bool = False

    metric = Metric("mse", name="squared error", title="mean squared error", higher_is_better=False)

    def model(self) -> nn.Module:
        return nn.Linear(4, 1, bias=False)

    def optimizer(self, model: nn.Module, sparsifier: ow.Sparsifier | None = None) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.2)

    def learning_rate(self, progress: float) -> float:
        return 0.2

    def batches(self, seed: int, start: int, device: torch.device) -> Iterator[Batch]:
        while True:
            x = torch.randn(16, 4, generator=seeded_generator(seed, start, "batch")).to(device)
            yield x, x @ COEFFICIENTS.to(device)
            start += 1

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        loss = F.mse_loss(model(batch[0]).squeeze(-1), batch[1])
        return loss / 0 if self.broken else loss

    def example(self, device: torch.device) -> Tensor:
        return torch.ones(1, 4, device=device)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        x = 2 * torch.eye(4, device=device)  # a mean over four rows of twice an error squared is the sum of squares
        x, noise = torch.cat([x, x]), torch.tensor([1.0, -1.0], device=device).repeat_interleave(4)
        return {"mse": F.mse_loss(model(x).squeeze(-1), x @ COEFFICIENTS.to(device) + noise).item()}


def runs() -> list[Run]:
    """Dense, half of the coefficients, and a quarter; two seeds each; and one that diverges."""
    prune = [ow.GradualMagnitude(ow.OneShot(sparsity, at=200)) for sparsity in (0.5, 0.75)]
    wild = ow.RandomPruning(ow.OneShot(0.75, at=200))
    return [
        *(Run(Line(), technique, steps=200, seed=seed) for technique in (None, *prune, wild) for seed in (0, 1)),
        Run(Line(broken=True), prune[0], steps=200, seed=2),
    ]
