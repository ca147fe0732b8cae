"""Learning both weights and connections: Han, Pool, Tran & Dally 2015, arXiv 1506.02626, section 3.

Train, remove every weight below a quality parameter times the standard deviation of its layer's weights, retrain the
others, and repeat this with a larger parameter. Removed weights stay removed.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from openwork.core.masks.allocations import Allocation, Uniform
from openwork.core.masks.criterion import Criterion, Threshold
from openwork.core.masks.evidence import View
from openwork.core.masks.technique import Hidden, MaskTechnique


@dataclass(frozen=True)
class PruneRetrain(MaskTechnique):
    """Removes the weights with |w| < q * std(w), q the schedule's value, whenever the schedule is due.

    ``PruneRetrain(Linear(1.5, begin=600, end=12_000, every=3_000))`` raises q to 1.5 with retraining in between;
    ``PruneRetrain(OneShot(1.0))`` prunes once. Start from a trained model, and retrain at a tenth of its learning rate.
    """

    criterion: Criterion = field(default=Threshold(), init=False, repr=False)
    allocation: Allocation = field(default=Uniform(), init=False, repr=False)
    hidden: Hidden = field(default="lost", init=False, repr=False)

    def scores(self, view: View) -> Tensor:
        """|w| in standard deviations of the tensor as it is, zeros included; -inf for removed weights."""
        return torch.where(view.mask, in_units_of(deviation(view.weight), view.weight.abs()), -math.inf)


def deviation(values: Tensor) -> Tensor:
    """The standard deviation; 0 of a single value."""
    return values.std(correction=min(1, values.numel() - 1))


def in_units_of(unit: Tensor, values: Tensor) -> Tensor:
    """``values / unit``, and inf where the unit is 0, below which no value is."""
    return torch.where(unit == 0, math.inf, values / unit)
