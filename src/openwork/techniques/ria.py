"""RIA: Zhang et al. 2024, "Plug-and-Play", ICLR, section 3.1: weights relative to those of their row and column."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from openwork.core.masks.evidence import Evidence, View
from openwork.core.masks.technique import Hidden, MaskTechnique
from openwork.techniques.wanda import InputSquares


@dataclass(frozen=True)
class RIA(MaskTechnique):
    """Keeps the weights that are large among those of their input and of their output, where their inputs are large.

    ``ow.prune(model, RIA(OneShot(0.5)), batches=loader)``. No kept weight changes its value.
    Weights of the whole matrix compete; ``pattern=PerOutput()`` gives every output as many.

    Args:
        power: That of the norms of the inputs, a; 0 ignores them.

    Raises:
        ValueError: If ``power`` is negative.
    """

    evidence: ClassVar[Evidence] = InputSquares(inputs=True)

    power: float = field(default=0.5, kw_only=True)
    hidden: Hidden = field(default="lost", init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.power < 0:
            raise ValueError(f"power must be >= 0, got {self.power}")

    def scores(self, view: View) -> Tensor:
        """(|W_ij| / Σ_i |W_ij| + |W_ij| / Σ_j |W_ij|) * ||X_j||^a."""
        sizes = view.matrices(view.weight).flatten(2).abs()  # (matrices, out, in * kernel)
        tiny = sizes.new_tensor(1e-30)  # for rows and columns of zeros
        relative = sizes / sizes.sum(1, keepdim=True).maximum(tiny) + sizes / sizes.sum(2, keepdim=True).maximum(tiny)
        norms = view.per_input(view.evidence["squares"].sqrt() ** self.power)
        return view.as_stored(relative) * norms
