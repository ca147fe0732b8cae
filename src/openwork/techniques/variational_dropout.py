"""Sparse variational dropout: Molchanov, Ashukha & Vetrov 2017, arXiv 1701.05369, sections 3-4.

Each weight has a Gaussian posterior w ~ N(theta, sigma^2) with sigma^2 = alpha * theta^2 and a log-uniform prior. Where
the data do not need a weight, its dropout rate alpha grows without bound, and it can be removed.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openwork.core.parameters.clipped import clipped
from openwork.core.parameters.technique import Reparameterization
from openwork.core.parameters.weight import Op, ReparameterizedWeight
from openwork.core.precision import exact
from openwork.noise import normal

EPS = 1e-8
K1, K2, K3 = 0.63576, 1.87320, 1.48695  # the fit of section 4.2


@dataclass(frozen=True)
class VariationalDropout(Reparameterization):
    """Learns log sigma^2 beside every weight; evaluation removes weights with log alpha >= ``threshold``.

    Args:
        coefficient: The factor of the KL term (nats, summed over all weights), of the order 1 / (number of training
            examples).
        threshold: The threshold on log alpha; 3 means a dropout rate of 95 %.
        log_sigma2: The initial value of log sigma^2.
        clip: In training log alpha is clipped to [-clip, clip], in evaluation never.
        train_clip: Whether weights that evaluation would remove have no mean in training either, only their noise, as
            in the authors' LeNets. A mean can come back: its gradient is zero, but that of log sigma^2 and of the KL is
            not.
        share_noise: For a Linear on inputs (batch, ..., in): whether all positions of an example share one draw for
            each output unit, as in the Transformer of Gale et al. 2019; otherwise there is a draw for each output.
    """

    varying: ClassVar[tuple[str, ...]] = ("coefficient", "threshold", "log_sigma2", "clip")

    threshold: float = field(default=3.0, kw_only=True)
    log_sigma2: float = field(default=-10.0, kw_only=True)
    clip: float = field(default=8.0, kw_only=True)
    train_clip: bool = field(default=False, kw_only=True)
    share_noise: bool = field(default=True, kw_only=True)

    def distribution(self, weight: Tensor, generator: torch.Generator) -> "GaussianWeight":
        """A posterior with constant log sigma^2."""
        return GaussianWeight(weight, self)


class GaussianWeight(ReparameterizedWeight):
    """N(theta, sigma^2) for every weight; ``log_sigma2`` has the weight's shape."""

    def __init__(self, weight: Tensor, technique: VariationalDropout) -> None:
        super().__init__()
        self.technique = technique
        self.log_sigma2 = nn.Parameter(torch.full_like(weight, technique.log_sigma2))

    def log_alpha(self, theta: Tensor) -> Tensor:
        """Log alpha = log sigma^2 - log theta^2, unclipped."""
        return self.log_sigma2 - torch.log(theta * theta + EPS)

    def clipped_log_alpha(self, theta: Tensor) -> Tensor:
        """Log alpha as training sees it."""
        return self._clipped(self.log_alpha(theta))

    def _clipped(self, log_alpha: Tensor) -> Tensor:
        return clipped(log_alpha, -self.technique.clip, self.technique.clip)

    def sigma2(self, theta: Tensor) -> Tensor:
        """sigma^2 = alpha * theta^2 with the clipped alpha."""
        theta2 = theta * theta + EPS
        return torch.exp(self._clipped(self.log_sigma2 - torch.log(theta2))) * theta2

    def mean(self, theta: Tensor) -> Tensor:
        """The means that training computes with."""
        return self.effective(theta) if self.technique.train_clip else theta

    def forward(
        self, op: Op, x: Tensor, weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Local reparameterisation (Kingma et al. 2015): op(x, theta) + sqrt(op(x^2, sigma^2)) * noise."""
        one_hot = not x.is_floating_point()  # ids stand for one-hot vectors, and x^2 = x
        mean = op(x, self.mean(weight), bias)
        variance = self._variance(op, x, weight)
        # In half precision eps underflows, and the gradient of sqrt at 0 is infinite.
        std = torch.sqrt(exact(variance) + EPS).to(mean.dtype)
        shape = list(mean.shape)
        if self.technique.share_noise and not one_hot and weight.dim() == 2 and mean.dim() > 2:
            shape[1:-1] = [1] * (mean.dim() - 2)
        return mean + std * normal(shape, mean, generator)

    def _variance(self, op: Op, x: Tensor, weight: Tensor) -> Tensor:
        sigma2 = self.sigma2(weight)
        if not x.is_floating_point():
            return op(x, sigma2, None)
        kind = x.device.type
        cast = torch.is_autocast_enabled(kind)
        if (torch.get_autocast_dtype(kind) if cast else x.dtype) != torch.float16:
            return op(x * x, sigma2, None)
        with torch.autocast(kind, enabled=False):  # float16 ends at 256^2
            x = x.float()
            return op(x * x, sigma2, None)

    def sample(self, weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Theta + sigma * noise."""
        return self.mean(weight) + torch.sqrt(self.sigma2(weight) + EPS) * normal(weight.shape, weight, generator)

    def effective(self, weight: Tensor) -> Tensor:
        """Theta where log alpha < threshold, 0 elsewhere."""
        return torch.where(self.log_alpha(weight) < self.technique.threshold, weight, 0.0)

    def penalty(self, weight: Tensor) -> Tensor:
        """KL(q || p) in nats, summed over the weights."""
        return kl(self.clipped_log_alpha(weight)).sum()


def kl(log_alpha: Tensor) -> Tensor:
    """KL(q || log-uniform) of each weight in nats, the approximation of equation 14, of ``log_alpha``'s shape.

    k1 - k1 * sigmoid(k2 + k3 * log alpha) + 0.5 * log(1 + 1 / alpha), which tends to 0 for alpha to infinity.
    """
    return K1 * torch.sigmoid(-K2 - K3 * log_alpha) + 0.5 * F.softplus(-log_alpha)  # 1 - sigmoid(x) = sigmoid(-x)
