"""Optimal Brain Surgeon: Singh & Alistarh 2020, arXiv 2004.14340; Kurtic et al. 2022, "oBERT", 2203.07259, section 3.

Near a minimum the loss grows by dw F dw / 2, where F = lambda I + the mean of g g^T over gradients g, in blocks along
the diagonal. Without w_i, and with the best change of the others, it grows by w_i^2 / (2 [F^-1]_ii).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from openwork.core.masks.evidence import Evidence, Kept, View
from openwork.core.masks.technique import Hidden, MaskTechnique


@dataclass(frozen=True)
class Fisher(Evidence):
    """The sum of g g^T over all backward passes, (blocks, block, block), and their "count".

    The papers' recursion for F^-1 begins at 1 / lambda, which costs float32 its digits; a sum keeps them.
    """

    block: int = 50

    def gradient(self, kept: Kept, weight: Tensor, gradient: Tensor) -> None:
        """Adds g g^T; a removed weight has no gradient."""
        rows = _rows(torch.where(weight != 0, gradient, 0), self.block)
        if "products" not in kept:
            kept["products"] = rows.new_zeros(*rows.shape, self.block)
            kept["count"] = rows.new_zeros(())
        kept["products"].baddbmm_(rows[:, :, None], rows[:, None, :])
        kept["count"] += 1


@dataclass(frozen=True)
class OBS(MaskTechnique):
    """Keeps the weights without which the loss would grow most, and makes up for the others; prunes a trained model.

    ``OBS(OneShot(0.5))`` in ``sparsify(..., calibrate=run)``, where ``run(model)`` calls ``backward()`` for each
    example or small batch, some hundreds of times. To prune further after a training, call `sparsify` again with
    ``keep_zeros=True``. ``allocation=GlobalRanking()`` ranks all layers together, as the papers do.

    Args:
        block: How many neighbours in memory may make up for each other; F takes that many times the weights' memory.
        damping: lambda, above 0: 1e-7 in oBERT, 1e-5 in WoodFisher.
        rounds: How often F is computed anew on the way to the sparsity.

    Raises:
        ValueError: If ``block`` is below 1 or no whole number, or the damping is not above 0.
    """

    solves: ClassVar[bool] = True

    block: int = field(default=50, kw_only=True)
    damping: float = field(default=1e-7, kw_only=True)
    rounds: int = field(default=1, kw_only=True)
    hidden: Hidden = field(default="lost", init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not hasattr(self.block, "__index__") or self.block < 1:
            raise ValueError(f"block must be a whole number of at least 1, got {self.block!r}; oBERT has 50")
        if not 0 < self.damping < math.inf:
            raise ValueError(f"damping must be above 0, got {self.damping}; oBERT has 1e-7")

    @property
    def evidence(self) -> Evidence:
        """F's blocks."""
        return Fisher(gradients="every backward", block=self.block)

    def scores(self, view: View) -> Tensor:
        """w_i^2 / (2 [F^-1]_ii), float64, -inf for removed weights."""
        found = [
            w.square() / (2 * torch.cholesky_inverse(factor).diagonal(dim1=1, dim2=2))
            for _, factor, w, _ in self._blocks(view, view.mask)
        ]
        return torch.where(view.mask, _stored(found, view.weight), -math.inf)

    def solve(self, view: View, keep: int, ties: torch.Generator) -> tuple[Tensor, Tensor]:
        """The best by `scores`, and the minimum of dw F dw / 2 over the kept weights, where the others become 0.

        With Q removed and K kept this is F_KK dw_K = F_KQ w_Q, all at once; one by one, it is the papers' update.
        """
        scores = self.scores(view)
        if self.pattern.whole_tensors:
            mask = view.as_stored(self.pattern.mask_of_matrices(view.matrices(scores), keep, ties))
        else:
            mask = self.pattern.mask(scores, keep, ties)
        found = []
        for fisher, _, w, k in self._blocks(view, mask):
            pull = k[:, :, None] * (fisher @ (w - w * k)[:, :, None])
            system = k[:, :, None] * k[:, None, :] * fisher + torch.diag_embed(1 - k)
            found.append(k * (w + torch.cholesky_solve(pull, torch.linalg.cholesky(system))[:, :, 0]))
        return mask, _stored(found, view.weight)

    def _blocks(self, view: View, mask: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """F, its Cholesky factor, weights and mask of some blocks at a time, in float64."""
        parts = (view.evidence["products"], _rows(view.weight, self.block), _rows(mask, self.block))
        together = max((1 << 24) // self.block**2, 1)  # blocks, whose numbers take 128 MiB
        for some in zip(*(torch.split(part, together) for part in parts), strict=True):
            products, w, k = (part.double() for part in some)
            fisher = products / view.evidence["count"]
            fisher.diagonal(dim1=1, dim2=2).add_(self.damping)
            factor, failed = torch.linalg.cholesky_ex(fisher)
            if failed.any():
                found = f"the gradients of {view.name} are NaN, infinite or too large for damping={self.damping}"
                raise ValueError(f"{found}; check the calibration, or give more damping")
            yield fisher, factor, w, k


def _rows(tensor: Tensor, size: int) -> Tensor:  # (blocks, size), filled up with zeros
    return F.pad(tensor.flatten(), (0, -tensor.numel() % size)).view(-1, size)


def _stored(rows: list[Tensor], like: Tensor) -> Tensor:
    return torch.cat(rows).flatten()[: like.numel()].view(like.shape)
