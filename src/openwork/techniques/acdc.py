"""AC/DC: Peste, Iofinova, Vladu & Alistarh 2021, arXiv 2106.12379: compressed and decompressed training by turns.

In sparse phases the largest weights of all tensors together are trained, in dense phases all of them. The last phase is
sparse, so that training ends with weights that have been trained as they are used.
"""

from dataclasses import dataclass, field

from openwork.core.masks.allocations import Allocation, GlobalRanking
from openwork.core.masks.technique import Hidden
from openwork.techniques.magnitude import GradualMagnitude


@dataclass(frozen=True)
class ACDC(GradualMagnitude):
    """Prunes to the schedule's sparsity and releases all weights by turns, by magnitude.

    ``ACDC(Phases(0.9, begin=..., end=..., sparse=..., dense=...))``. A weight that a sparse phase removes is lost: it
    comes back at 0. When weights are released, the optimizer's state of all selected weights begins anew.

    Args:
        schedule: The sparsity: `Phases`.
        allocation: How it is spread over the tensors, by default by one ranking over all of them.
    """

    allocation: Allocation = field(default=GlobalRanking(), kw_only=True)
    hidden: Hidden = field(default="lost", init=False, repr=False)

    def restarts(self, step: int) -> bool:
        """True at a release."""
        return step > 0 and self.schedule(step) == 0
