"""FORCE: de Jorge et al. 2021, arXiv 2006.09081, section 4: SNIP in many rounds, in which weights may come back."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from openwork.core.masks.allocations import Allocation, GlobalRanking
from openwork.core.masks.evidence import Evidence, View
from openwork.core.masks.technique import Hidden, MaskTechnique


@dataclass(frozen=True)
class FORCE(MaskTechnique):
    """Keeps the weights with the largest |gradient * w| of the network that is left, once before training.

    ``FORCE(OneShot(0.99))`` in ``sparsify(..., calibrate=run)``, as for `SNIP`. In each round all weights have a
    score, the removed ones by the values that they began with, so that a round may correct the one before.

    Args:
        allocation: How the sparsity is spread over the tensors, by default by one ranking over all of them.
        rounds: How often gradients are taken and masks chosen.
    """

    evidence: ClassVar[Evidence] = Evidence(gradients="at updates")

    allocation: Allocation = field(default=GlobalRanking(), kw_only=True)
    rounds: int = field(default=60, kw_only=True)
    hidden: Hidden = field(default="frozen", init=False, repr=False)

    def scores(self, view: View) -> Tensor:
        """|g w|, with the first value of w also where it is removed."""
        scores: Tensor = (view.evidence["gradient"] * view.weight).abs()
        return scores
