"""Gradual magnitude pruning: Zhu & Gupta 2017, "To prune, or not to prune", arXiv 1710.01878, section 3."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openwork.core.masks.evidence import View
from openwork.core.masks.technique import MaskTechnique
from openwork.core.sharded import is_sharded


@dataclass(frozen=True)
class GradualMagnitude(MaskTechnique):
    """Keeps the weights of largest magnitude, more and more strictly while training goes on.

    A masked weight receives no gradient and keeps its hidden value. It comes back at a later update where that value is
    among the largest again, since kept weights may have shrunk. Gale et al. 2019 use this method with a `Cubic`
    schedule, the same sparsity in every tensor and ``hidden="trained"``.
    """

    def scores(self, view: View) -> Tensor:
        """|w|."""
        return view.weight.abs()

    def all_scores(self, views: Sequence[View]) -> list[Tensor]:
        """|w| of each, in one launch."""
        weights = [view.weight for view in views]
        # A subclass may have scores of its own, and torch takes no tensors of which some are sharded.
        if type(self).scores is not GradualMagnitude.scores or any(map(is_sharded, weights)):
            return super().all_scores(views)
        return list(torch._foreach_abs(weights))
