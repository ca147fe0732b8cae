"""The scores by which a technique would choose now, for those who only ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from openwork.core.masks.calibrate import gather
from openwork.core.masks.check import check_spoiled
from openwork.core.masks.listening import Listening, check_calibration
from openwork.core.masks.ranked import scored
from openwork.core.masks.weight import MaskedWeight, remember
from openwork.core.mechanism import Calibrate
from openwork.core.selection import Weight

if TYPE_CHECKING:
    from openwork.core.masks.technique import MaskTechnique


@torch.no_grad()
def first_scores(
    technique: MaskTechnique, model: nn.Module, weights: Sequence[Weight], *, seed: int, calibrate: Calibrate | None
) -> dict[str, Tensor]:
    """The scores of each weight by name, (out, in, kernel...) under a pattern; no weight changes.

    Args:
        technique: The technique.
        model: The model that owns the weights.
        weights: What `sparsify` would select.
        seed: As in `sparsify`.
        calibrate: As in `sparsify`.

    Raises:
        DivergedError: If scores are NaN.
        ValueError: If the technique cannot have its evidence.
    """
    masked = [MaskedWeight(weight, keep_zeros=False) for weight in weights]
    check_calibration(technique, masked, calibrate)
    Listening(technique, masked).begin()
    if calibrate is not None:
        gather(technique.evidence, masked, model, calibrate)
    remember(masked)
    scores = scored(technique, [(weight, weight.view(step=0, seed=seed)) for weight in masked])
    names = [weight.name for weight in masked]
    check_spoiled(names, scores, [int(one.isnan().sum()) for one in scores])
    return dict(zip(names, scores, strict=True))
