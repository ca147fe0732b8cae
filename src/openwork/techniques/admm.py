"""ADMM pruning: Boža 2024, arXiv 2401.02938, section 3: sparse weights and least-squares ones, drawn to each other."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from openwork.core.factors import cholesky, damped
from openwork.core.masks.evidence import Evidence, View
from openwork.core.masks.input_products import InputProducts, products_of, wanda_scores
from openwork.core.masks.patterns import Pattern
from openwork.core.masks.technique import Hidden, MaskTechnique


@dataclass(frozen=True)
class ADMM(MaskTechnique):
    """Finds mask and weights by the alternating direction method of multipliers, the sparsity rising on the way.

    ``ow.prune(model, ADMM(OneShot(0.5)), batches=loader)``. Inputs are scaled to norm 1, and
    weights inversely, so that a magnitude is Wanda's score. With G = X Xᵀ + λI each step is

        Z = mask(W + U),   U ← U + W - Z,   W = (W₀ G + Z - U) (G + I)⁻¹

    and the mask of the first ``rising`` steps is chosen anew, at the sparsity s (1 - (1 - step / rising)³). The result
    is Z. With ``keep_zeros=True`` zeros of the model stay.

    Args:
        damping: λ over the mean of the diagonal of X Xᵀ, > 0.
        steps: Steps in all.
        rising: Steps that choose the mask.
        gradual: Whether the sparsity rises; False has it in full from the first step, as the released code does without
            saying so where a mask is unstructured.

    Raises:
        ValueError: If ``damping`` is not > 0, or not 1 <= rising <= steps.
    """

    evidence: ClassVar[Evidence] = InputProducts(inputs=True)
    solves: ClassVar[bool] = True

    damping: float = field(default=0.1, kw_only=True)
    steps: int = field(default=20, kw_only=True)
    rising: int = field(default=15, kw_only=True)
    gradual: bool = field(default=True, kw_only=True)
    hidden: Hidden = field(default="lost", init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.damping > 0 or not 1 <= self.rising <= self.steps:
            raise ValueError(
                f"damping must be > 0 and rising in 1..steps, got {self.damping} and {self.rising} of {self.steps}"
            )

    def scores(self, view: View) -> Tensor:
        """Wanda's, for allocations."""
        return wanda_scores(view)

    def solve(self, view: View, keep: int, ties: torch.Generator) -> tuple[Tensor, Tensor]:
        """The steps above, for all outputs at once."""
        stored, allowed = view.matrices(view.weight), view.matrices(view.mask)
        products, scale = normalised(products_of(view))
        products = damped(products, self.damping)
        dense = stored.flatten(2) * scale
        solution = dense @ products
        products.diagonal(dim1=1, dim2=2).add_(1)
        inverse = torch.cholesky_inverse(cholesky(products, view.name))

        free = int(allowed.count_nonzero())
        weight, duals, mask = dense, torch.zeros_like(dense), torch.ones_like(dense, dtype=torch.bool)
        for step in range(1, self.steps + 1):
            if step <= self.rising:
                left = (1 - step / self.rising) ** 3 if self.gradual else 0.0
                number = keep + math.ceil((free - keep) * left)
                mask = best((weight + duals).view_as(stored), allowed, self.pattern, number, ties).reshape(dense.shape)
            sparse = (weight + duals) * mask
            duals = duals + weight - sparse
            weight = (solution + sparse - duals) @ inverse
        found = (weight + duals) * mask / scale
        return view.as_stored(mask), view.as_stored(found)


def normalised(products: Tensor) -> tuple[Tensor, Tensor]:
    """X Xᵀ of inputs that are scaled to norm 1, and their norms as (matrices, 1, in * kernel).

    An input that is always 0 has a tiny norm, so that its weights are the first to go.
    """
    norms = products.diagonal(dim1=1, dim2=2).sqrt()
    norms = norms + 1e-8 * norms.amax(1, keepdim=True).clamp(min=1e-30)
    return products / norms[:, None] / norms[:, :, None], norms[:, None]


def best(weight: Tensor, allowed: Tensor, pattern: Pattern, keep: int, ties: torch.Generator) -> Tensor:
    """The mask of the largest magnitudes.

    Args:
        weight: (matrices, out, in, kernel...).
        allowed: Bool of the same shape: where weights may be kept.
        pattern: Where zeros may lie.
        keep: How many to keep.
        ties: Draws between equals.
    """
    return pattern.mask_of_matrices(torch.where(allowed, weight.abs(), -math.inf), keep, ties)
