"""Sparse variational dropout: Molchanov, Ashukha & Vetrov 2017, arXiv 1701.05369, sections 3-4.

Each weight has a Gaussian posterior w ~ N(theta, sigma^2) with sigma^2 = alpha * theta^2 and a log-uniform prior. Where
the data do not need a weight, its dropout rate alpha grows without bound, and it can be removed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from openwork.core.parameters.clipped import clipped
from openwork.core.parameters.noisy import compute_dtype, noise_shape, with_noise
from openwork.core.parameters.products import Given, Lookup, Product
from openwork.core.parameters.technique import Reparameterization
from openwork.core.parameters.weight import Op, ReparameterizedWeight
from openwork.core.precision import exact
from openwork.kernels.divergence import Divergence, kl
from openwork.kernels.paths import transformed
from openwork.kernels.variational import EPS, Variances, variances
from openwork.noise import normal


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
        memory: What the backward pass keeps: "fast" a number for each output, or on a GPU none where it is as soon
            computed again; "small" none, but one more product for each layer, and noise that is always a hash.

    Raises:
        ValueError: If ``memory`` is neither.
    """

    varying: ClassVar[tuple[str, ...]] = ("coefficient", "threshold", "log_sigma2", "clip")

    threshold: float = field(default=3.0, kw_only=True)
    log_sigma2: float = field(default=-10.0, kw_only=True)
    clip: float = field(default=8.0, kw_only=True)
    train_clip: bool = field(default=False, kw_only=True)
    share_noise: bool = field(default=True, kw_only=True)
    memory: str = field(default="fast", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory not in ("fast", "small"):
            raise ValueError(f"memory must be 'fast' or 'small', got {self.memory!r}")

    def distribution(self, weight: Tensor, generator: torch.Generator) -> "GaussianWeight":
        """A posterior with constant log sigma^2."""
        return GaussianWeight(weight, self)


class GaussianWeight(ReparameterizedWeight):
    """N(theta, sigma^2) for every weight; ``log_sigma2`` has the weight's shape."""

    by_rows = True

    def __init__(self, weight: Tensor, technique: VariationalDropout) -> None:
        super().__init__()
        self.technique = technique
        self.log_sigma2 = nn.Parameter(torch.full_like(weight, technique.log_sigma2))

    def log_alpha(self, theta: Tensor) -> Tensor:
        """Log alpha = log sigma^2 - log theta^2, unclipped."""
        return _log_alpha(theta, self.log_sigma2)

    def clipped_log_alpha(self, theta: Tensor) -> Tensor:
        """Log alpha as training sees it."""
        return self._clipped(self.log_alpha(theta))

    def _clipped(self, log_alpha: Tensor) -> Tensor:
        return clipped(log_alpha, -self.technique.clip, self.technique.clip)

    def sigma2(self, theta: Tensor) -> Tensor:
        """sigma^2 = alpha * theta^2 with the clipped alpha."""
        return self._sigma2(theta, self.log_sigma2)

    def _sigma2(self, theta: Tensor, log_sigma2: Tensor) -> Tensor:
        clip: float | Tensor = self.technique.clip
        if isinstance(clip, Tensor):  # of stacked models
            return variances(theta, log_sigma2, torch.exp(-clip), torch.exp(clip))
        low, high = math.exp(-clip), math.exp(min(clip, 700.0))
        if transformed():
            return variances(theta, log_sigma2, low, high)
        found: Tensor = Variances.apply(theta, log_sigma2, low, high)  # type: ignore[no-untyped-call]
        return found

    def mean(self, theta: Tensor) -> Tensor:
        """The means that training computes with."""
        return self._mean(theta, self.log_sigma2)

    def _mean(self, theta: Tensor, log_sigma2: Tensor) -> Tensor:
        return self._effective(theta, log_sigma2) if self.technique.train_clip else theta

    def _effective(self, theta: Tensor, log_sigma2: Tensor) -> Tensor:
        return torch.where(_log_alpha(theta, log_sigma2) < self.technique.threshold, theta, 0.0)

    def forward(
        self, op: Op, x: Tensor, weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Local reparameterisation (Kingma et al. 2015): op(x, theta) + sqrt(op(x^2, sigma^2)) * noise."""
        theta: Tensor = weight
        log_sigma2: Tensor = self.log_sigma2
        if isinstance(op, Lookup) and x.numel() < len(weight):  # the rows are fewer numbers than the table
            theta, log_sigma2, op = op(x, theta, None), op(x, log_sigma2, None), Given()
        dtype = compute_dtype(x)
        # float16 ends at 256^2, where x^2 would. Also without gradients, since a reentrant checkpoint draws the same
        # noise first without them and then with them.
        explicit = dtype != torch.float16 and not transformed()
        if explicit and x.is_floating_point():
            x = x.to(dtype)  # once: autocast would do it for each product
        mean = op(x, self._mean(theta, log_sigma2), bias)
        sigma2 = self._sigma2(theta, log_sigma2)
        # ids stand for one-hot vectors, and x^2 = x
        shared = self.technique.share_noise and x.is_floating_point() and weight.dim() == 2 and mean.dim() > 2
        if explicit and isinstance(op, Product):
            small = self.technique.memory == "small"
            return with_noise(op, mean, x, sigma2.to(mean.dtype), shared=shared, small=small, generator=generator)
        variance = _variance(op, x, sigma2, dtype)
        # In half precision eps underflows, and the gradient of sqrt at 0 is infinite.
        std = torch.sqrt(exact(variance) + EPS).to(mean.dtype)
        return mean + std * normal(noise_shape(mean.shape, shared), mean, generator)

    def sample(self, weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Theta + sigma * noise."""
        return self.mean(weight) + torch.sqrt(self.sigma2(weight) + EPS) * normal(weight.shape, weight, generator)

    def effective(self, weight: Tensor) -> Tensor:
        """Theta where log alpha < threshold, 0 elsewhere."""
        return self._effective(weight, self.log_sigma2)

    def penalty(self, weight: Tensor) -> Tensor:
        """KL(q || p) in nats, summed over the weights."""
        return kl(self.clipped_log_alpha(weight)).sum()

    @classmethod
    def costs(cls, distributions: Sequence[Any], weights: Sequence[Tensor], coefficient: Tensor) -> Tensor:
        """The KL of all weights in one pass; where a compiler or a transform looks on, the sum of each `cost`."""
        clip: float | Tensor = distributions[0].technique.clip
        log_sigma2s = [distribution.log_sigma2 for distribution in distributions]
        dtypes = {tensor.dtype for tensor in (*weights, *log_sigma2s)}
        if torch.compiler.is_compiling() or transformed() or isinstance(clip, Tensor) or len(dtypes) > 1:
            return super().costs(distributions, weights, coefficient)
        total: Tensor = Divergence.apply(clip, coefficient.to(weights[0].dtype), *weights, *log_sigma2s)  # type: ignore[no-untyped-call]
        return total


def _log_alpha(theta: Tensor, log_sigma2: Tensor) -> Tensor:
    return log_sigma2 - torch.log(theta * theta + EPS)


def _variance(op: Op, x: Tensor, sigma2: Tensor, dtype: torch.dtype) -> Tensor:
    if not x.is_floating_point():
        return op(x, sigma2, None)
    if dtype != torch.float16:
        return op(x * x, sigma2, None)
    with torch.autocast(x.device.type, enabled=False):  # float16 ends at 256^2
        x = x.float()
        return op(x * x, sigma2, None)
