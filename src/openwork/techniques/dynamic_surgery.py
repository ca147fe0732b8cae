"""Dynamic network surgery: Guo, Yao & Chen 2016, arXiv 1608.04493, section 3: pruning and splicing while training.

The loss is that of the masked weights, and its gradient also moves masked weights (straight-through). A weight goes
when it falls below a threshold, and comes back when it grows beyond a slightly larger one.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from openwork.core.masks.allocations import Allocation, Uniform
from openwork.core.masks.criterion import Criterion, Threshold
from openwork.core.masks.evidence import Evidence, Kept, View
from openwork.core.masks.technique import Hidden, MaskTechnique
from openwork.core.schedules import Schedule
from openwork.core.seeding import seeded_generator
from openwork.techniques.prune_retrain import deviation, in_units_of

LOWER, UPPER = 0.9, 1.1  # a kept weight goes at 0.9 of the threshold, a removed one comes back at 1.1 of it


@dataclass(frozen=True)
class Splicing(Schedule):
    """Masks are recomputed at random steps before ``stop``, with the probability (1 + gamma * step) ^ -power.

    The steps depend on these numbers alone, so that a run can be resumed.

    Args:
        stop: The optimizer step from which on masks stay as they are.
        gamma: How fast the probability falls with the steps.
        power: The exponent of its fall.
    """

    stop: int
    gamma: float = field(default=1e-4, kw_only=True)
    power: float = field(default=1.0, kw_only=True)

    final: float = field(default=1.0, init=False, repr=False)

    def __call__(self, step: int) -> float:
        """1: the scores are in units of their thresholds."""
        return self.final

    @property
    def last(self) -> int:
        """The step before ``stop``; masks are rarely recomputed so late."""
        return self.stop - 1

    def due(self, step: int) -> bool:
        """True with a probability that falls from 1."""
        draw = float(torch.rand((), generator=seeded_generator(0, step, "splicing"), device="cpu"))
        return 0 < step < self.stop and draw < (1 + self.gamma * step) ** -self.power


@dataclass(frozen=True)
class Beginning(Evidence):
    """The mean and the standard deviation of |w| when training begins, each of shape (1,)."""

    def begin(self, weight: Tensor) -> Kept:
        """Both."""
        magnitude = weight.abs()
        return {"mean": magnitude.mean().reshape(1), "std": deviation(magnitude).reshape(1)}


@dataclass(frozen=True)
class DynamicSurgery(MaskTechnique):
    """Removes and restores weights around the threshold mean(|w|) + rate * std(|w|), taken when training begins.

    Start from a trained model.

    Args:
        schedule: When masks are recomputed, `Splicing` in the paper.
        rate: The factor of the standard deviation, c in the authors' code.
    """

    varying: ClassVar[tuple[str, ...]] = ("schedule", "rate")
    evidence: ClassVar[Evidence] = Beginning()
    dense_gradients: ClassVar[bool] = True

    rate: float = field(default=1.0, kw_only=True)
    criterion: Criterion = field(default=Threshold(), init=False, repr=False)
    allocation: Allocation = field(default=Uniform(), init=False, repr=False)
    hidden: Hidden = field(default="trained", init=False, repr=False)

    def scores(self, view: View) -> Tensor:
        """|w| over the threshold that it must reach now: at least 1 means kept."""
        threshold = (view.evidence["mean"] + self.rate * view.evidence["std"]).clamp(min=0)
        magnitude = view.weight.abs()
        threshold = threshold.reshape((1,) * magnitude.dim())  # () of one number
        return in_units_of(threshold * torch.where(view.mask, LOWER, UPPER).to(magnitude), magnitude)
