"""Soft movement pruning: Sanh, Wolf & Rush 2020, arXiv 2005.07683, section 4: scores against a rising threshold.

Each weight has a learned score S in a straight-through mask: the gradient of the loss by S is that by the masked weight
times the weight, also where the mask is zero. A penalty draws all scores down, so that a matrix keeps as many weights
as it needs.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from openwork.core.parameters.technique import Reparameterization
from openwork.core.parameters.weight import ReparameterizedWeight, write

FLOOR = 0.005  # of a matrix survives whatever its scores are


@dataclass(frozen=True)
class SoftMovement(Reparameterization):
    """Keeps the weights with sigmoid(S) >= tau; for fine-tuning a trained model.

    ``SoftMovement(Cubic(400.0, begin=..., end=...))``: the penalty's factor rises to the paper's 400 while the
    threshold rises to ``tau`` with it, and both stay. The scores begin at 0. They want a learning rate of their own,
    1e-2 with Adam where the weights have 3e-5, and no weight decay (`Sparsifier.parameter_groups`). There is no target:
    the sparsity follows from the coefficient. At least half a percent of each matrix survives.

    Args:
        coefficient: The factor of the mean of sigmoid(S) over the matrices; ends above 0.
        tau: The threshold at the end of the coefficient's schedule, in (0, 1).

    Raises:
        ValueError: If ``tau`` is outside (0, 1), or the coefficient ends at 0.
    """

    varying: ClassVar[tuple[str, ...]] = ("coefficient", "tau")
    prior: ClassVar[bool] = False

    tau: float = field(default=0.1, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.tau < 1:
            raise ValueError(f"tau must be in (0, 1), got {self.tau}")
        if not self.final:
            raise ValueError(
                f"the coefficient of SoftMovement moves its threshold, too, and ends at 0 in {self.coefficient}; give "
                "it one that rises, such as Cubic(400.0, end=1000)"
            )

    @property
    def final(self) -> float:
        """The coefficient at the end of its schedule."""
        assert self.coefficient is not None
        return self.coefficient.final

    def distributions(self, weights: list[Tensor], generators: list[torch.Generator]) -> list[ReparameterizedWeight]:
        """Scores for each weight, of whose means the penalty is the mean."""
        return [ScoredWeight(weight, self, 1 / len(weights)) for weight in weights]

    def distribution(self, weight: Tensor, generator: torch.Generator) -> "ScoredWeight":
        """Scores for this weight alone."""
        return ScoredWeight(weight, self, 1.0)


class ScoredWeight(ReparameterizedWeight):
    """w where S reaches the cut; ``S`` has the weight's shape, ``cut`` the shape (1,)."""

    cut: Tensor
    rise: Tensor

    def __init__(self, weight: Tensor, technique: SoftMovement, share: float) -> None:
        super().__init__()
        self.share = share
        self.S = nn.Parameter(torch.zeros_like(weight))
        self.register_buffer("cut", weight.new_zeros(1))
        self.register_buffer("rise", weight.new_full((1,), technique.tau / technique.final), persistent=False)

    def sample(self, weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """W * mask; the gradient by S is that by the mask."""
        return weight * (self.mask() + (self.S - self.S.detach()))

    def effective(self, weight: Tensor) -> Tensor:
        """W * mask."""
        return torch.where(self.mask(), weight, 0)

    def penalty(self, weight: Tensor) -> Tensor:
        """The mean of sigmoid(S), as a share of the mean over all matrices."""
        return self.share * torch.sigmoid(self.S).mean()

    def expected_nonzero(self, weight: Tensor) -> Tensor:
        """How many scores reach the cut."""
        return self.mask().sum()

    def follow(self, weight: Tensor, step: int, coefficient: Tensor) -> None:
        """Sets the cut: tau for sigmoid(S), in proportion to the coefficient, unless too few scores reach it."""
        fewest = math.ceil(FLOOR * self.S.numel())
        tau = torch.logit(self.rise * coefficient, eps=1e-37)  # at 0 it is -85, which no score reaches
        write(self.cut, torch.minimum(tau, self.S.flatten().topk(fewest).values[-1:]))

    def mask(self) -> Tensor:
        """Where S reaches the cut, bool."""
        return self.S.detach() >= self.cut.reshape((1,) * self.S.dim())  # () of one number
