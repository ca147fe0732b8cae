"""Movement pruning: Sanh, Wolf & Rush 2020, arXiv 2005.07683, section 4: weights that move away from zero stay.

Each weight has a score S in a straight-through mask: the gradient of the loss by S is that by the masked weight times
the weight, also where the mask is zero. Gradient descent on S from 0 sums -learning rate * w * gradient.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from openwork.core.masks.evidence import Evidence, Kept, View
from openwork.core.masks.technique import Hidden, MaskTechnique


@dataclass(frozen=True)
class Movements(Evidence):
    """S / learning rate: the sum over all steps of -w * gradient, float32, of the weight's shape."""

    def begin(self, weight: Tensor) -> Kept:
        """Zeros."""
        return {"movement": torch.zeros_like(weight, dtype=torch.float32)}

    def gradient(self, kept: Kept, weight: Tensor, gradient: Tensor) -> None:
        """One step of gradient descent on S."""
        kept["movement"] -= (weight.conj() * gradient).real  # conj and real are the tensor itself where it is real


@dataclass(frozen=True)
class Movement(MaskTechnique):
    """Keeps the weights that training has moved most away from zero, hard top-k; for fine-tuning a trained model.

    The paper recomputes masks in every forward: ``every=1`` of a `Cubic`, which begins after the learning rate's
    warm-up. A masked weight keeps its value, and its movement is summed further.
    """

    evidence: ClassVar[Evidence] = Movements(gradients="every step")

    hidden: Hidden = field(default="frozen", init=False, repr=False)

    def scores(self, view: View) -> Tensor:
        """S."""
        return view.evidence["movement"]
