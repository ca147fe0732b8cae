"""Sparse evolutionary training: Mocanu et al. 2018, arXiv 1707.04780.

Training is sparse from the first step; from time to time the smallest weights make room for random ones.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from openwork.core.masks.evidence import View
from openwork.core.masks.technique import Hidden, MaskTechnique


@dataclass(frozen=True)
class SET(MaskTechnique):
    """Drops a fraction of the kept weights, the smallest, and grows as many at random, at a constant sparsity.

    ``SET(Constant(0.9, every=500, stop=90_000))`` begins with random masks. The paper updates after every epoch but the
    last, so that the final weights have been trained. A grown weight begins at 0.

    Args:
        schedule: The sparsity and the steps of the updates.
        fraction: zeta, the fraction of the kept weights that is dropped, in [0, 1].

    Raises:
        ValueError: If the fraction is outside [0, 1].
    """

    varying: ClassVar[tuple[str, ...]] = ("schedule", "fraction")
    regrows: ClassVar[bool] = True

    fraction: float = field(default=0.3, kw_only=True)
    hidden: Hidden = field(default="lost", init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"fraction must be in [0, 1], got {self.fraction}")

    def scores(self, view: View) -> Tensor:
        """|w|; before training, random."""
        return view.weight.abs() if view.step else view.uniform()

    def growth(self, view: View) -> Tensor:
        """Uniform in [0, 1)."""
        return view.uniform()

    def exchange(self, step: int) -> float:
        """Zeta."""
        return self.fraction
