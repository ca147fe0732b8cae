"""Soft weight sharing: Ullrich, Meeds & Welling 2017, arXiv 1702.04008, sections 3-4: weights drawn to a few values.

All weights have one Gaussian mixture as their prior, whose means, precisions and proportions are learned with them. One
component sits at zero and holds most of the prior's mass. In the end each weight takes the mean of the component that
is most responsible for it.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from openwork.core.parameters.technique import Reparameterization
from openwork.core.parameters.weight import ReparameterizedWeight

SPREAD, STD = 0.6, 0.25  # of the initial means, and of the initial components
ZERO_PRIOR, OTHER_PRIOR = (5e3, 2.0), (250.0, 0.1)  # Gamma(a, b) on the precisions
# Learning rates relative to the weights': 1e-4, 3e-3 and 3e-3 against 5e-4. Adam moves a parameter by its rate whatever
# the gradient's scale, so a factor in front of the parameter multiplies its rate.
MEAN_RATE, PRECISION_RATE, PROPORTION_RATE = 0.2, 6.0, 6.0


@dataclass(frozen=True)
class SoftWeightSharing(Reparameterization):
    """Learns a mixture of Gaussians as the prior of all selected weights together.

    Start from a trained model, with Adam at 5e-4. Training computes with the weights themselves, but evaluation from
    the start with the components' means: before the mixture has learned, most weights belong to the component at zero.
    The logger "openwork" says the change as INFO.

    Args:
        coefficient: The factor of the negative log prior (nats): tau / (number of training examples), tau = 0.003 in
            the authors' tutorial.
        components: How many values there are, zero included; at least 2.
        zero_proportion: The fixed proportion of the component at zero, in (0, 1).

    Raises:
        ValueError: If ``components`` is below 2, or ``zero_proportion`` is outside (0, 1).
    """

    components: int = field(default=16, kw_only=True)
    zero_proportion: float = field(default=0.99, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.components < 2:
            raise ValueError(f"components must be at least 2, zero and another, got {self.components}")
        if not 0 < self.zero_proportion < 1:
            raise ValueError(f"zero_proportion must be in (0, 1), got {self.zero_proportion}")

    def distributions(self, weights: list[Tensor], generators: list[torch.Generator]) -> list[ReparameterizedWeight]:
        """One mixture for all weights."""
        mixture = Mixture(self).to(weights[0].device)
        return [SharedWeight(mixture, first=index == 0) for index in range(len(weights))]

    def distribution(self, weight: Tensor, generator: torch.Generator) -> "SharedWeight":
        """A mixture for this weight alone."""
        return SharedWeight(Mixture(self).to(weight.device), first=True)


class Mixture(nn.Module):
    """A mixture of Gaussians with one mean at zero; its parameters are in units of their learning rates."""

    def __init__(self, technique: SoftWeightSharing) -> None:
        super().__init__()
        self.technique = technique
        others, single = technique.components - 1, torch.float32  # whatever torch's default is
        self.scaled_means = nn.Parameter(
            torch.linspace(-SPREAD, SPREAD, others, dtype=single, device="cpu") / MEAN_RATE
        )
        precision = -2 * math.log(STD) / PRECISION_RATE
        self.scaled_precisions = nn.Parameter(torch.full((others + 1,), precision, dtype=single, device="cpu"))
        self.scaled_proportions = nn.Parameter(torch.zeros(others, dtype=single, device="cpu"))

    def means(self) -> Tensor:
        """(components,), the first is 0."""
        return nn.functional.pad(MEAN_RATE * self.scaled_means, (1, 0))

    def log_precisions(self) -> Tensor:
        """(components,)."""
        return PRECISION_RATE * self.scaled_precisions

    def log_proportions(self) -> Tensor:
        """(components,)."""
        zero = self.technique.zero_proportion
        others = torch.log_softmax(PROPORTION_RATE * self.scaled_proportions, 0) + math.log1p(-zero)
        return nn.functional.pad(others, (1, 0), value=math.log(zero))

    def log_joint(self, weight: Tensor) -> Tensor:
        """Log proportion_j + log N(w | mean_j, 1 / precision_j), of shape (components, *weight.shape)."""
        shape = (-1, *(1,) * weight.dim())
        means, precisions, proportions = (
            part.view(shape) for part in (self.means(), self.log_precisions(), self.log_proportions())
        )
        squares = (weight - means).square() * precisions.exp()
        return proportions + 0.5 * (precisions - squares - math.log(2 * math.pi))

    def hyper_penalty(self) -> Tensor:
        """-log of the Gamma priors on the precisions, shape ()."""
        precisions = self.log_precisions()
        a, b = precisions.new_tensor([ZERO_PRIOR, *[OTHER_PRIOR] * (len(precisions) - 1)]).T
        penalty: Tensor = ((1 - a) * precisions + b * precisions.exp()).sum()
        return penalty


class SharedWeight(ReparameterizedWeight):
    """A weight that stays itself in training, and is the mean of its component in evaluation."""

    def __init__(self, mixture: Mixture, *, first: bool) -> None:
        super().__init__()
        self.mixture = mixture
        self.first = first  # the mixture's own prior counts once

    def sample(self, weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The weight itself."""
        return weight

    def effective(self, weight: Tensor) -> Tensor:
        """The mean of the component with the largest responsibility; exactly 0 for the one at zero."""
        return self.mixture.means()[self.mixture.log_joint(weight).argmax(0)]

    def penalty(self, weight: Tensor) -> Tensor:
        """The negative log prior of the weights in nats; the first weight adds that of the mixture itself."""
        prior = -torch.logsumexp(self.mixture.log_joint(weight), 0).sum()
        return prior + self.mixture.hyper_penalty() if self.first else prior
