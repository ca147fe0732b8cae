"""The masks before training: evidence is gathered and masks are chosen, once or in several rounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from openwork.core.masks.calibrate import gather
from openwork.core.masks.update import choose
from openwork.core.masks.weight import MaskedWeight
from openwork.core.mechanism import Calibrate

if TYPE_CHECKING:
    from openwork.core.masks.mechanism import Masking


def first_masks(masking: Masking, model: nn.Module, calibrate: Calibrate | None) -> None:
    """Gathers evidence in each of the technique's rounds, and puts masks in force where the schedule is due.

    In round e of N the fraction (1 - sparsity)^(e / N) is kept, so that each removes the same part of what is left.
    Weights come back to their values if a round fails.
    """
    technique, rounds = masking.technique, masking.technique.rounds
    sparsity = technique.schedule(0)
    with _undone(masking.weights if rounds > 1 else ()):
        for number in range(1, rounds + 1):
            if number > 1:
                masking.listening.begin()
            if calibrate is not None:
                gather(technique.evidence, masking.weights, model, calibrate)
            if technique.schedule.due(0):
                value = sparsity if number == rounds else 1 - (1 - sparsity) ** (number / rounds)
                masking.take(choose(technique, masking.weights, seed=masking.seed, step=0, value=value))


@contextmanager
def _undone(weights: Sequence[MaskedWeight]) -> Iterator[None]:
    """Gives the weights their values back where something fails inside."""
    values = [weight.local.detach().clone() for weight in weights]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for weight, value in zip(weights, values, strict=True):
                weight.local.copy_(value)
        raise
