"""The techniques as a paper's formulas are written down at first: layers around layers, noise from torch.

Variational dropout: two products and `torch.randn`. L0: `torch.rand` and two logarithms a weight. The penalty is a
Python sum over the layers.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-8
K1, K2, K3 = 0.63576, 1.87320, 1.48695  # of the approximation of the KL divergence
BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1  # of the hard-concrete distribution


class NaiveLayer(nn.Module, ABC):
    """A Linear, convolution or embedding with something learned beside its weight.

    Args:
        layer: The layer.
        learned: Of the weight's shape.
    """

    def __init__(self, layer: nn.Module, learned: nn.Parameter) -> None:
        super().__init__()
        self.layer, self.learned = layer, learned

    @property
    def weight(self) -> Tensor:
        """The layer's."""
        weight = self.layer.weight
        assert isinstance(weight, Tensor)
        return weight

    def op(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the layer computes, with another weight."""
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, weight, bias)
        if isinstance(self.layer, nn.Conv2d):
            convolved: Tensor = self.layer._conv_forward(x, weight, bias)
            return convolved
        return F.embedding(x, weight)

    @property
    def bias(self) -> Tensor | None:
        """The layer's."""
        bias = getattr(self.layer, "bias", None)
        assert bias is None or isinstance(bias, Tensor)
        return bias

    @abstractmethod
    def penalty(self) -> Tensor:
        """What it adds to the penalty."""


class NaiveVariationalDropout(NaiveLayer):
    """Molchanov et al. 2017: op(x, theta) + sqrt(op(x^2, sigma^2)) * noise."""

    def log_alpha(self) -> Tensor:
        """Clipped."""
        return (self.learned - torch.log(self.weight * self.weight + EPS)).clamp(-8, 8)

    def forward(self, x: Tensor) -> Tensor:
        """With a draw for each output."""
        sigma2 = torch.exp(self.log_alpha()) * (self.weight * self.weight + EPS)
        mean = self.op(x, self.weight, self.bias)
        variance = self.op(x * x if x.is_floating_point() else x, sigma2, None)
        return mean + torch.sqrt(variance + EPS) * torch.randn_like(mean)

    def penalty(self) -> Tensor:
        """The KL divergence."""
        log_alpha = self.log_alpha()
        return (K1 - K1 * torch.sigmoid(K2 + K3 * log_alpha) + 0.5 * torch.log1p(torch.exp(-log_alpha))).sum()


class NaiveL0(NaiveLayer):
    """Louizos et al. 2018: op(x, theta * z) with hard-concrete gates z."""

    def forward(self, x: Tensor) -> Tensor:
        """With one draw for the batch."""
        u = torch.rand_like(self.learned).clamp(EPS, 1 - 1e-6)
        s = torch.sigmoid((torch.log(u) - torch.log(1 - u) + self.learned) / BETA)
        return self.op(x, self.weight * (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1), self.bias)

    def penalty(self) -> Tensor:
        """The expected number of open gates."""
        return torch.sigmoid(self.learned - BETA * math.log(-GAMMA / ZETA)).sum()


def wrap(model: nn.Module, kind: type[NaiveLayer], start: float) -> Callable[[], Tensor]:
    """Puts a naive layer around each Linear, convolution and embedding; returns what computes the penalty.

    Args:
        model: The model, changed in place.
        kind: Of the layers.
        start: What is learned begins with this.
    """
    learned: dict[int, nn.Parameter] = {}  # tied weights share it
    layers: list[NaiveLayer] = []
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.Embedding):
                weight = layer.weight
                first = id(weight) not in learned
                own = learned.setdefault(id(weight), nn.Parameter(torch.full_like(weight, start)))
                made = kind(layer, own)
                setattr(parent, name, made)
                layers += [made] * first
    return lambda: torch.stack([layer.penalty() for layer in layers]).sum()
