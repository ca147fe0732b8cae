"""L0 regularisation: Louizos, Welling & Kingma 2018, arXiv 1712.01312, section 2; here with one gate a weight.

Every weight is theta * z with a hard-concrete gate z: a stretched, clipped concrete variable that is exactly 0 or 1
with positive probability, and differentiable in log alpha. The penalty is the expected number of non-zero gates. Gates
for single weights, not groups, are those of Gale et al. 2019, arXiv 1902.09574.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from openwork.core.parameters.technique import Reparameterization
from openwork.core.parameters.weight import Op, ReparameterizedWeight
from openwork.kernels.gate_sums import SHIFT, open_cost
from openwork.kernels.gates import gated, gated_rows, stretched
from openwork.kernels.paths import transformed


@dataclass(frozen=True)
class L0(Reparameterization):
    """Learns log alpha beside every weight; evaluation multiplies weights by the gate's deterministic value.

    A gate that is sometimes open in training is exactly 0 in evaluation only where log alpha <= log(1/11) = -2.398. In
    evaluation gates begin at 0.98 with a dropout of 0.1, and multiply the weights of a trained model at once.

    Args:
        coefficient: The factor of the expected count of non-zero weights, of the order 1 / (number of training
            examples).
        dropout: The initial probability that a gate is closed, in (0, 1): log alpha ~ N(log((1 - p) / p), 0.01).
        weight_decay: Adds weight_decay / (1 - dropout) * sum P(z != 0) theta^2 / 2 to the loss, the expected L2 norm
            with the length scale kept (appendix of the paper, Gale et al. section 4). Leave theta and log alpha out of
            the optimizer's own weight decay.

    Raises:
        ValueError: If ``dropout`` is outside (0, 1), or ``weight_decay`` is negative.
    """

    varying: ClassVar[tuple[str, ...]] = ("coefficient", "dropout")

    dropout: float = field(default=0.1, kw_only=True)
    weight_decay: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_gates(self.dropout, self.weight_decay)

    def length_scale(self) -> float:
        """The factor of the expected L2 norm."""
        return self.weight_decay / (1 - self.dropout)

    def distribution(self, weight: Tensor, generator: torch.Generator) -> "HardConcreteWeight":
        """Gates whose log alpha is drawn from ``generator``."""
        return HardConcreteWeight(weight, self, generator)


class HardConcreteWeight(ReparameterizedWeight):
    """theta * z for every weight; ``log_alpha`` has the weight's shape."""

    by_rows = True

    def __init__(self, weight: Tensor, technique: L0, generator: torch.Generator) -> None:
        super().__init__()
        self.technique = technique
        draws = initial_log_alpha(weight.shape, technique.dropout, generator)
        self.log_alpha = nn.Parameter(torch.empty_like(weight).copy_(draws))  # in its layout

    def forward(
        self, op: Op, x: Tensor, weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None
    ) -> Tensor:
        """op(x, theta * z): one draw of the gates for the whole batch; for ids, a draw for each occurrence."""
        if x.is_floating_point():
            return op(x, self.sample(weight, generator), bias)
        return gated_rows(lambda ids, matrix: op(ids, matrix, None), x, weight, self.log_alpha, generator)

    def sample(self, weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Theta * z with z ~ HardConcrete(log alpha)."""
        return gated(weight, self.log_alpha, generator)

    def effective(self, weight: Tensor) -> Tensor:
        """Theta * clip(sigmoid(log alpha) * (zeta - gamma) + gamma, 0, 1): equation 13."""
        return weight * stretched(torch.sigmoid(self.log_alpha))

    def penalty(self, weight: Tensor) -> Tensor:
        """The expected number of non-zero weights: equation 12."""
        return open_probability(self.log_alpha).sum()

    def cost(self, weight: Tensor, coefficient: Tensor) -> Tensor:
        """Coefficient * penalty, and the expected L2 norm where it has a factor."""
        cost = super().cost(weight, coefficient)
        if not self.technique.weight_decay:
            return cost
        return cost + expected_l2(self.log_alpha, weight, self.technique.length_scale())

    @classmethod
    def costs(
        cls, distributions: Sequence["HardConcreteWeight"], weights: Sequence[Tensor], coefficient: Tensor
    ) -> Tensor:
        """The sum of each `cost`, on a GPU in one pass of all weights."""
        if not weights[0].is_cuda or transformed():
            return super().costs(distributions, weights, coefficient)
        factor = 0.5 * distributions[0].technique.length_scale()
        factors = torch.stack([coefficient, torch.full_like(coefficient, factor)])
        return open_cost(factors, [each.log_alpha for each in distributions], weights if factor else [])

    def expected_nonzero(self, weight: Tensor) -> Tensor:
        """The penalty."""
        return self.penalty(weight)


def check_gates(dropout: float, weight_decay: float) -> None:
    """Raises ValueError for settings that no gates can have."""
    if not 0 < dropout < 1:
        raise ValueError(f"dropout must be in (0, 1), got {dropout}")
    if weight_decay < 0:
        raise ValueError(f"weight_decay must be >= 0, got {weight_decay}")


def initial_log_alpha(shape: Sequence[int], dropout: float, generator: torch.Generator) -> Tensor:
    """N(log((1 - dropout) / dropout), 0.01) of this shape, on the CPU.

    Args:
        shape: The shape of log alpha.
        dropout: The initial probability that a gate is closed, in (0, 1).
        generator: A CPU generator.
    """
    drawn = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
    return math.log((1 - dropout) / dropout) + 0.01 * drawn


def hard_concrete(log_alpha: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Gates in [0, 1] drawn from HardConcrete(log alpha), of ``log_alpha``'s shape; equations 10-11."""
    return gated(torch.ones_like(log_alpha), log_alpha, generator)


def open_probability(log_alpha: Tensor) -> Tensor:
    """P(z != 0) = sigmoid(log alpha - beta * log(-gamma / zeta)), of log_alpha's shape."""
    return torch.sigmoid(log_alpha + SHIFT)


def expected_l2(log_alpha: Tensor, weight: Tensor, factor: float) -> Tensor:
    """Factor * sum P(z != 0) theta^2 / 2, shape (); log_alpha broadcasts to the weight."""
    return 0.5 * factor * (open_probability(log_alpha) * weight * weight).sum()
