"""RigL: Evci, Gale, Menick, Castro & Elsen 2020, "Rigging the Lottery", arXiv 1911.11134, section 3.

Training is sparse from the first step. At every update each tensor drops its smallest weights, fewer and fewer of them,
and grows as many where the gradient is largest.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from openwork.core.masks.evidence import Evidence, View
from openwork.core.masks.technique import Hidden, MaskTechnique


@dataclass(frozen=True)
class RigL(MaskTechnique):
    """Drops the smallest weights and grows those with the largest gradients, at a constant sparsity.

    ``RigL(Constant(0.9, every=100, stop=75_000), allocation=ERK())`` begins with random masks. A grown weight begins at
    0 with empty optimizer state; one that is dropped and grown in one update keeps its value.

    Args:
        schedule: The sparsity, updates each ``every`` steps, and the last one at about 3/4 of the training.
        fraction: alpha, the fraction of the kept weights that is dropped at first, in [0, 1].

    Raises:
        ValueError: If the schedule has no last update, or the fraction is outside [0, 1].
    """

    varying: ClassVar[tuple[str, ...]] = ("schedule", "fraction")
    evidence: ClassVar[Evidence] = Evidence(gradients="at updates")
    regrows: ClassVar[bool] = True

    fraction: float = field(default=0.3, kw_only=True)
    hidden: Hidden = field(default="lost", init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"fraction must be in [0, 1], got {self.fraction}")
        if not self.schedule.last:
            raise ValueError(
                f"RigL drops fewer and fewer weights until its last update, and {self.schedule} has none; give it one, "
                "such as Constant(0.9, every=100, stop=75_000)"
            )

    def scores(self, view: View) -> Tensor:
        """|w|; before training, random."""
        return view.weight.abs() if view.step else view.uniform()

    def growth(self, view: View) -> Tensor:
        """|gradient| of the masked model."""
        return view.evidence["gradient"].abs()

    def exchange(self, step: int) -> float:
        """f(t) = alpha / 2 * (1 + cos(pi * t / T)), 0 from the last update T on."""
        last = self.schedule.last
        assert last
        return self.fraction / 2 * (1 + math.cos(math.pi * min(step / last, 1.0)))
