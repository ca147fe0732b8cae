"""SNIP: Lee, Ajanthan & Torr 2019, arXiv 1810.02340, section 4: which connections the loss feels, before training."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from openwork.core.masks.allocations import Allocation, GlobalRanking
from openwork.core.masks.evidence import Evidence, View
from openwork.core.masks.technique import Hidden, MaskTechnique


@dataclass(frozen=True)
class SNIP(MaskTechnique):
    """Keeps the weights with the largest |gradient * w|, the loss's derivative by each weight's mask.

    ``SNIP(OneShot(0.9))`` prunes inside ``sparsify(..., calibrate=run)``, where ``run(model)`` calls ``backward()`` on
    the loss of a batch with some examples of each class. ``OneShot(0.9, at=1)`` takes the gradient of the first
    training step. With a `Cubic` each update ranks the weights that the last one left.

    ``SNIP(OneShot(0.99), rounds=60)`` is the iterated SNIP of de Jorge et al. 2021, arXiv 2006.09081, section 4.2: each
    round takes the gradient of what the last one left, and removes the same fraction of it.

    Args:
        allocation: How the sparsity is spread over the tensors, by default by one ranking over all of them.
        rounds: How often gradients are taken and masks chosen before training.
    """

    evidence: ClassVar[Evidence] = Evidence(gradients="at updates")

    allocation: Allocation = field(default=GlobalRanking(), kw_only=True)
    rounds: int = field(default=1, kw_only=True)
    hidden: Hidden = field(default="lost", init=False, repr=False)

    def scores(self, view: View) -> Tensor:
        """|g w|, -inf for removed weights; the paper divides by the sum over all tensors, which keeps the order."""
        return torch.where(view.mask, (view.evidence["gradient"] * view.weight).abs(), -math.inf)
