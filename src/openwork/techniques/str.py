"""Soft threshold weight reparameterization: Kusupati et al. 2020, arXiv 2002.03231, section 3: learned thresholds.

Each tensor has a threshold sigmoid(s), by which all its weights shrink. Weight decay draws s up from far below, and the
gradient of the loss holds it where zeros begin to cost more.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from openwork.core.parameters.technique import Reparameterization
from openwork.core.parameters.weight import ReparameterizedWeight
from openwork.core.schedules import Schedule

UNDERFLOW = -104  # below it sigmoid(s) and its derivative are 0 in float32


@dataclass(frozen=True)
class STR(Reparameterization):
    """Computes with sign(w) * relu(|w| - sigmoid(s)), with one learned s for each tensor.

    The sparsity follows from ``s`` and the optimizer's weight decay, which weights and s need alike, and from the
    number of steps; there is no target (but see `reaching`). Below -104 the threshold and its gradient are exactly 0 in
    float32: training is dense, and s moves by weight decay alone, s * prod(1 - rate * decay) under SGD. With -3200 and
    the paper's recipe that is more than a quarter of the training. Where s begins below -104, an
    optimizer without weight decay is refused.

    Args:
        s: What s begins with: -3200 for ResNet-50 at 90 %, -12800 for MobileNet in the authors' configurations.
    """

    varying: ClassVar[tuple[str, ...]] = ("s",)
    penalised: ClassVar[bool] = False

    coefficient: Schedule | None = field(default=None, init=False, repr=False)
    s: float = -3200.0

    @property
    def needs_decay(self) -> bool:
        """True where sigmoid(s) is 0 in float32."""
        return self.s < UNDERFLOW

    @classmethod
    def reaching(
        cls,
        sparsity: float,
        reached: Callable[["STR"], float],
        *,
        low: float = -12_800.0,
        high: float = -5.0,
        within: float = 0.005,
        trainings: int = 12,
    ) -> "STR":
        """The technique whose training reaches a sparsity, found by bisecting log(-s): each trial is a whole training.

        Args:
            sparsity: The target, in (0, 1).
            reached: Trains a new model with the technique that it is given, and returns its sparsity.
            low: The smallest s, which gives the fewest zeros.
            high: The largest s, below 0.
            within: How far from the target the sparsity may be.
            trainings: How many trials there may be.

        Raises:
            ValueError: Unless low < high < 0, or if no trial comes so near.
        """
        if not low < high < 0:
            raise ValueError(f"the search needs low < high < 0, got low={low}, high={high}")
        found, lower, upper = math.nan, low, high
        for _ in range(trainings):
            trial = cls(-math.sqrt(lower * upper))
            found = reached(trial)
            if abs(found - sparsity) <= within:
                return trial
            lower, upper = (trial.s, upper) if found < sparsity else (lower, trial.s)
        raise ValueError(
            f"no s in [{low:g}, {high:g}] came within {within:g} of the sparsity {sparsity:g} in {trainings} "
            f"trainings, of which the last reached {found:.3g}; change the weight decay or the number of steps"
        )

    def distribution(self, weight: Tensor, generator: torch.Generator) -> "SoftThresholdWeight":
        """A threshold for this weight."""
        return SoftThresholdWeight(weight, self.s)


class SoftThresholdWeight(ReparameterizedWeight):
    """S(w, s): the proximal operator of the L1 norm times sigmoid(s); ``s`` has the shape (1,)."""

    by_rows = True

    def __init__(self, weight: Tensor, s: float) -> None:
        super().__init__()
        self.s = nn.Parameter(weight.new_full((1,), s))

    def sample(self, weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Sign(w) * relu(|w| - sigmoid(s)): equation 3."""
        threshold = torch.sigmoid(self.s).reshape((1,) * weight.dim())  # () of one number
        return weight.sign() * torch.relu(weight.abs() - threshold)

    def effective(self, weight: Tensor) -> Tensor:
        """The same."""
        return self.sample(weight)

    def expected_nonzero(self, weight: Tensor) -> Tensor:
        """How many weights are beyond the threshold."""
        return (self.sample(weight) != 0).sum()
