"""Small models, a training loop and a check of errors shared by the tests."""

import re
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import openwork as ow


class Tied(nn.Module):
    """Token ids (N, L) -> logits (N, L, 11) through one matrix used as embedding and as softmax weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.hidden = nn.Linear(6, 6)
        self.output = nn.Linear(6, 11, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.output(torch.tanh(self.hidden(self.embedding(ids))))
        return logits


def conv_net() -> nn.Sequential:
    """Images (N, 2, 6, 6) -> logits (N, 5)."""
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 5))


def image_batches(seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless random batches for `conv_net`."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(8, 2, 6, 6, generator=generator), torch.randint(5, (8,), generator=generator)


def mean(layer: nn.Module) -> Tensor:
    """The parameter behind a weight that is a random variable: reading ``layer.weight`` gives a sample."""
    return dict(layer.named_parameters())["weight"]


def train_step(
    model: nn.Module, sparsifier: ow.Sparsifier, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]
) -> Tensor:
    """One optimizer step; the loss with its penalty."""
    loss = F.cross_entropy(model(batch[0]), batch[1]) + sparsifier.penalty()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def raises(error: type[Exception], *parts: str) -> pytest.RaisesExc[Exception]:
    """pytest.raises whose message has all the parts, in this order, and is one sentence."""
    return pytest.raises(error, match=r"(?s)^(?!.*\. ).*" + ".*".join(re.escape(part) for part in parts))
