"""SparseGPT: Frantar & Alistarh 2023, arXiv 2301.00774, section 3: what is removed, the inputs after it make good."""

import math
from dataclasses import dataclass, field
from itertools import groupby
from typing import ClassVar

import torch
from torch import Tensor

from openwork.core.factors import backward_root, damped, invert_upper
from openwork.core.masks.evidence import Evidence, View
from openwork.core.masks.input_products import InputProducts, products_of, wanda_scores
from openwork.core.masks.slices import slices
from openwork.core.masks.technique import Hidden, MaskTechnique

_SMALL = 16
"""Columns that are removed one by one before a product updates the others."""


@dataclass(frozen=True)
class SparseGPT(MaskTechnique):
    """Removes the weights that matter least to a layer's outputs, input by input, and adapts those of later inputs.

    ``ow.prune(model, SparseGPT(OneShot(0.5)), batches=loader)``. With H = X Xᵀ + λI and UᵀU = H⁻¹
    a removed weight w_j costs w_j² / U_jj², and w_j U_j: / U_jj is subtracted from the weights of all later inputs.
    Masks are chosen ``block`` columns at a time, with the weights as they are by then: each block has the same
    sparsity. Under n:m they are chosen group by group. With ``keep_zeros=True`` zeros of the model stay.

    Args:
        damping: λ over the mean of the diagonal of X Xᵀ, > 0.
        block: Columns of a block.

    Raises:
        ValueError: If ``damping`` is not > 0, or ``block`` not at least 1.
    """

    evidence: ClassVar[Evidence] = InputProducts(inputs=True)
    solves: ClassVar[bool] = True

    damping: float = field(default=0.01, kw_only=True)
    block: int = field(default=128, kw_only=True)
    hidden: Hidden = field(default="lost", init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.damping > 0 or self.block < 1:
            raise ValueError(f"damping must be > 0 and block at least 1, got {self.damping} and {self.block}")

    def scores(self, view: View) -> Tensor:
        """Wanda's, for allocations."""
        return wanda_scores(view)

    def solve(self, view: View, keep: int, ties: torch.Generator) -> tuple[Tensor, Tensor]:
        """Block after block: choose what is removed, then remove it column by column.

        The root U is needed within blocks only, where it is the inverse of the block of R, with RRᵀ = H. What the
        columns before a block have lost, D, takes D R to the later ones, and this times U is what they gain.
        """
        weight, allowed, products = view.matrices(view.weight), view.matrices(view.mask), products_of(view)
        across = backward_root(damped(products, self.damping), view.name)
        # Inputs that are always 0 go first, the small weights of them before the large ones.
        diagonal = across.diagonal(dim1=1, dim2=2)
        worth = torch.where(products.diagonal(dim1=1, dim2=2) > 0, 1, 1e-12) * diagonal.square()
        columns = weight.flatten(2).mT.contiguous()  # (matrices, in * kernel, out): a column lies in one piece
        mask, lost = torch.zeros_like(columns, dtype=torch.bool), torch.zeros_like(columns)  # lost: D R
        size = math.prod(weight.shape[3:])  # of the kernel

        def choose(begin: int, end: int, number: int | None) -> None:
            room = allowed[:, :, begin // size : end // size]
            scores = (columns[:, begin:end].square() * worth[:, begin:end, None]).mT.reshape(room.shape)
            scores = torch.where(room, scores, -math.inf)
            if number is None:
                chosen = self.pattern.mask_of_span(scores.flatten(0, 1)).view(scores.shape)
            else:
                chosen = self.pattern.mask_of_matrices(scores, number, ties)
            mask[:, begin:end] = chosen.flatten(2).mT

        parts = slices(self.pattern, allowed, keep, self.block, final=self.schedule(view.step) == self.schedule.final)
        width, total = parts[0][1] * size, columns.shape[1]
        near = width * max(1, self.block // width)  # so far columns are kept up to date; the others follow in one go
        for place, block in groupby(parts, lambda part: part[0] * size // near):
            start, until = place * near, min(place * near + near, total)
            root, some = invert_upper(across[:, start:until, start:until]), columns[:, start:until]
            dense, errors = some.clone(), torch.zeros_like(some)
            some.baddbmm_(root.mT, lost[:, start:until])
            for first, last, number in block:
                begin, end = first * size, last * size
                choose(begin, end, number)
                errors[:, begin - start : end - start] = ~mask[:, begin:end] * diagonal[:, begin:end, None]
                _remove(some, errors, root, begin - start, end - start)
                _update(some, errors, root, begin - start, end - start, until - start)
            if until < total:
                change = dense - some * mask[:, start:until]
                lost[:, until:].baddbmm_(across[:, start:until, until:].mT, change)
        return view.as_stored(mask.mT), view.as_stored((columns * mask).mT)


def _remove(columns: Tensor, errors: Tensor, root: Tensor, begin: int, end: int) -> None:
    """Takes these columns one after the other: in ``errors`` 1 / U_jj of what is removed becomes w_j / U_jj.

    Halves of them: what the first did, one product takes to the second, so that few tensors are small.
    """
    if end - begin > _SMALL:
        middle = begin + (end - begin) // 2
        _remove(columns, errors, root, begin, middle)
        _update(columns, errors, root, begin, middle, end)
        _remove(columns, errors, root, middle, end)
        return
    some = columns[:, begin:end]
    # Cut all at once, which costs less than to index each.
    rows = root[:, begin:end, begin:end].triu(1).unsqueeze(3).unbind(1)
    for row, error, column in zip(rows, torch.split(errors[:, begin:end], 1, 1), torch.split(some, 1, 1), strict=True):
        some.addcmul_(row, error.mul_(column), value=-1)


def _update(columns: Tensor, errors: Tensor, root: Tensor, begin: int, end: int, until: int) -> None:
    """Adapts the columns from ``end`` to ``until`` to what was removed from ``begin`` to ``end``."""
    if until > end:
        columns[:, end:until].baddbmm_(root[:, begin:end, end:until].mT, errors[:, begin:end], alpha=-1)
