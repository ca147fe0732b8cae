"""Random pruning, the baseline of Gale, Elsen & Hooker 2019, "The State of Sparsity", arXiv 1902.09574, section 3.2."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from openwork.core.masks.evidence import View
from openwork.core.masks.technique import Hidden, MaskTechnique


@dataclass(frozen=True)
class RandomPruning(MaskTechnique):
    """Removes weights uniformly at random, on the schedule and with the exact counts of magnitude pruning.

    Cumulative, as in the paper's runs: a removed weight never comes back.
    """

    hidden: Hidden = field(default="lost", init=False, repr=False)

    def scores(self, view: View) -> Tensor:
        """Uniform in [0, 1) for the weights kept until now, -inf for the others."""
        return torch.where(view.mask, view.uniform(), -math.inf)
