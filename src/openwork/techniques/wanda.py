"""Wanda: Sun, Liu, Bair & Kolter 2023, arXiv 2306.11695, section 3: magnitudes times the norms of their inputs."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from openwork.core.masks.evidence import Evidence, Kept, View
from openwork.core.masks.patterns import Pattern
from openwork.core.masks.rows import PerOutput
from openwork.core.masks.technique import Hidden, MaskTechnique


@dataclass(frozen=True)
class InputSquares(Evidence):
    """The sum of the squares of each input of a layer, float32, (in,) or (in * kernel,)."""

    def input(self, kept: Kept, rows: Tensor) -> None:
        """Adds the squares of these rows."""
        squares = rows.float().square().sum(0)
        kept["squares"] = kept["squares"] + squares if "squares" in kept else squares


@dataclass(frozen=True)
class Wanda(MaskTechnique):
    """Keeps, for every output, the weights with the largest |w| * ||input||; prunes a trained model once.

    ``ow.prune(model, Wanda(OneShot(0.5)), batches=loader)``. No kept weight changes its value.

    Args:
        pattern: Where the zeros may lie: by default every output keeps as many weights; with ``NM(2, 4)`` the best 2 of
            each 4 stay.
    """

    evidence: ClassVar[Evidence] = InputSquares(inputs=True)

    pattern: Pattern = field(default=PerOutput(), kw_only=True)
    hidden: Hidden = field(default="lost", init=False, repr=False)

    def scores(self, view: View) -> Tensor:
        """|W_ij| * ||X_j||_2."""
        return view.weight.abs() * view.per_input(view.evidence["squares"].sqrt())
