"""ALPS: Meng et al. 2024, arXiv 2406.07831, section 3: ADMM with a penalty that rises until the mask stays as it is."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from openwork.core.factors import damped
from openwork.core.least_squares import refit
from openwork.core.masks.evidence import Evidence, View
from openwork.core.masks.input_products import InputProducts, products_of, wanda_scores
from openwork.core.masks.technique import Hidden, MaskTechnique
from openwork.core.precision import where_float64_is
from openwork.techniques.admm import best, normalised


@dataclass(frozen=True)
class ALPS(MaskTechnique):
    """Finds the mask by `ADMM` steps at the final sparsity, and its weights by least squares.

    ``ow.prune(model, ALPS(OneShot(0.7)), batches=loader)``. Inputs are scaled as in `ADMM`, and
    G = X Xᵀ + λI. A step is

        W = (W₀ G - V + ρ D) (G + ρI)⁻¹,   D = best(W + V / ρ),   V ← V + ρ (W - D)

    After every third the penalty ρ rises by 1.3, 1.2 or 1.1, if more than 10 %, more than 0.5 %, or some of the places
    that are kept have changed. If none has before ρ has ever risen, it is too high, and a fifth of it begins anew. The
    search ends where the places hardly change. Then conjugate gradients adapt the weights that are kept.

    Args:
        damping: λ over the mean of the diagonal of X Xᵀ, >= 0.
        penalty: ρ at the beginning, > 0.
        search: Steps at most to find the mask.
        steps: Steps of conjugate gradients.

    Raises:
        ValueError: If ``damping`` is negative, ``penalty`` not > 0, or ``search`` not at least 1.
    """

    evidence: ClassVar[Evidence] = InputProducts(inputs=True)
    solves: ClassVar[bool] = True

    damping: float = field(default=0.01, kw_only=True)
    penalty: float = field(default=0.1, kw_only=True)
    search: int = field(default=300, kw_only=True)
    steps: int = field(default=10, kw_only=True)
    hidden: Hidden = field(default="lost", init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.damping < 0 or not self.penalty > 0 or self.search < 1:
            raise ValueError(
                f"damping must be >= 0, penalty > 0 and search at least 1, got {self.damping}, {self.penalty} and "
                f"{self.search}"
            )

    def scores(self, view: View) -> Tensor:
        """Wanda's, for allocations."""
        return wanda_scores(view)

    def solve(self, view: View, keep: int, ties: torch.Generator) -> tuple[Tensor, Tensor]:
        """The search for the mask, then its weights."""
        stored, allowed = view.matrices(view.weight), view.matrices(view.mask)
        products, scale = normalised(products_of(view))
        dense = stored.flatten(2) * scale
        solution = dense @ damped(products, self.damping)
        # (G + ρI)⁻¹ for every ρ by one decomposition, in float64, as small eigenvalues decide.
        values, vectors = torch.linalg.eigh(where_float64_is(damped(products, self.damping)).double())
        vectors = vectors.to(dense)

        def places(weight: Tensor) -> Tensor:
            return best(weight.view_as(stored), allowed, self.pattern, keep, ties).reshape(dense.shape)

        penalty, risen = self.penalty, False
        sparse, duals = dense, torch.zeros_like(dense)
        mask = before = places(dense)
        for step in range(1, self.search + 1):
            shrunk = 1 / (values.clamp(min=0) + penalty).to(dense)[:, None]
            weight = ((solution - duals + penalty * sparse) @ vectors * shrunk) @ vectors.mT
            mask = places(weight + duals / penalty)
            sparse = (weight + duals / penalty) * mask
            duals = duals + penalty * (weight - sparse)
            if step % 3:
                continue
            changed, before = int((mask != before).count_nonzero()) / max(keep, 1), mask
            if step >= 30 and changed < 3e-4:
                break
            if not (changed or risen):
                penalty, sparse, duals = penalty / 5, dense, torch.zeros_like(dense)
                continue
            penalty *= 1.3 if changed > 0.1 else 1.2 if changed > 0.005 else 1.1 if changed else 1
            risen = True
        found = refit(sparse, mask, products, dense=dense, ridge=self.damping, steps=self.steps, tolerance=1e-4)
        return view.as_stored(mask), view.as_stored(found / scale)
