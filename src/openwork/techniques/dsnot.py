"""DSnoT: Zhang et al. 2023, arXiv 2310.08915, section 3: exchanges of weights until each output keeps its mean."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from openwork.core.masks.evidence import Evidence, Kept, View
from openwork.core.masks.patterns import Pattern
from openwork.core.masks.rows import PerOutput
from openwork.core.masks.technique import Hidden, MaskTechnique
from openwork.core.precision import where_float64_is


@dataclass(frozen=True)
class InputMoments(Evidence):
    """The sums of each input of a layer and of its squares, and the number of rows.

    In float64: a variance is the small difference of two large numbers where the mean is far from 0.
    """

    def input(self, kept: Kept, rows: Tensor) -> None:
        """Adds these rows."""
        rows = where_float64_is(rows).double()
        found = {"sums": rows.sum(0), "squares": rows.square().sum(0), "rows": rows.new_tensor(float(len(rows)))}
        for name, value in found.items():
            kept[name] = kept[name] + value if name in kept else value


@dataclass(frozen=True)
class DSnoT(MaskTechnique):
    """Begins with a mask of other scores, and exchanges weights of each output until its mean is as it was.

    ``ow.prune(model, DSnoT(OneShot(0.6)), batches=loader)``. No kept weight changes its value,
    and every output keeps as many as before. With e = Σ W_ij mean(X_j) over what is removed, the removed weight
    comes back that takes most from |e|, over the variance of its input; the kept weight goes that Wanda ranks lowest
    among those that take from |e| as well. An output is done when |e| is at most ``tolerance``, or does not shrink.

    Args:
        start: The scores of the first mask: "wanda" or "magnitude".
        steps: Exchanges of an output at most.
        tolerance: |e| that is small enough, >= 0.
        power: That of the variance, >= 0.
        pattern: Where the zeros may lie: single weights, of each output as many by default.

    Raises:
        ValueError: If ``start`` is another word, or a number is negative.
    """

    evidence: ClassVar[Evidence] = InputMoments(inputs=True)
    solves: ClassVar[bool] = True

    start: Literal["wanda", "magnitude"] = field(default="wanda", kw_only=True)
    steps: int = field(default=50, kw_only=True)
    tolerance: float = field(default=0.1, kw_only=True)
    power: float = field(default=1.0, kw_only=True)
    pattern: Pattern = field(default=PerOutput(), kw_only=True)
    hidden: Hidden = field(default="lost", init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start not in ("wanda", "magnitude"):
            raise ValueError(f"start must be 'wanda' or 'magnitude', got {self.start!r}")
        if min(self.steps, self.tolerance, self.power) < 0:
            raise ValueError(
                f"steps, tolerance and power must be >= 0, got {self.steps}, {self.tolerance} and {self.power}"
            )

    def scores(self, view: View) -> Tensor:
        """Those of the first mask."""
        if self.start == "magnitude":
            return view.weight.abs()
        return view.weight.abs() * view.per_input(view.evidence["squares"].sqrt().to(view.weight))

    def solve(self, view: View, keep: int, ties: torch.Generator) -> tuple[Tensor, Tensor]:
        """The first mask, and the exchanges of all outputs at once."""
        stored, allowed = view.matrices(view.weight), view.matrices(view.mask)
        if self.pattern.group(stored.flatten(0, 1).shape) > 1:
            raise ValueError(
                f"DSnoT exchanges single weights, and {self.pattern} keeps several together; take PerOutput()"
            )
        first = torch.where(allowed, view.matrices(self.scores(view)), -math.inf)
        mask = self.pattern.mask_of_matrices(first, keep, ties).flatten(2)
        weight, free = stored.flatten(2), allowed.flatten(2)
        rows, sums, squares = (view.evidence[name] for name in ("rows", "sums", "squares"))
        mean = sums / rows[..., None]
        variance = squares / rows[..., None] - mean.square()
        mean, variance, norms = (each.to(weight).view(len(weight), 1, -1) for each in (mean, variance, squares.sqrt()))
        moved = weight * mean  # what each weight adds to the mean of its output
        worth = moved / variance.clamp(min=1e-12) ** self.power
        wanda = weight.abs() * norms
        group = self._groups(stored)

        error = (moved * ~mask).sum(2, keepdim=True)
        going_on = error.abs() > self.tolerance
        for _ in range(self.steps):
            sign = error.sign()
            back = torch.where(free & ~mask, sign * worth, -math.inf).argmax(2, keepdim=True)
            fits = mask & (sign * moved < 0) & (group == group[back])
            leaves = torch.where(fits, wanda, math.inf).argmin(2, keepdim=True)
            after = error - moved.gather(2, back) + moved.gather(2, leaves)
            both = (free & ~mask).gather(2, back) & fits.gather(2, leaves)
            going_on = going_on & both & (after.abs() < error.abs())
            mask = mask.scatter(2, back, mask.gather(2, back) | going_on)
            mask = mask.scatter(2, leaves, mask.gather(2, leaves) & ~going_on)
            error = torch.where(going_on, after, error)
            going_on = going_on & (error.sign() == sign) & (error.abs() > self.tolerance)
        return view.as_stored(mask), view.weight

    def _groups(self, stored: Tensor) -> Tensor:
        """The number of the group, of which it must stay a member, of each column: under n:m, m inputs at one place."""
        _, outputs, inputs, *kernel = stored.shape
        span = self.pattern.span([outputs, inputs, *kernel]) or inputs
        places = torch.arange(math.prod(kernel) if span < inputs else 1, device=stored.device)
        number = torch.arange(inputs, device=stored.device)[:, None] // span * len(places) + places
        return number.expand(inputs, math.prod(kernel)).flatten()
