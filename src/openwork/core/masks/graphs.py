"""Which steps may be those of a CUDA graph, which repeats what the device did and asks nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from openwork.core.masks.mechanism import Masking


def check_capture(masking: Masking, optimizer: torch.optim.Optimizer) -> None:
    """Checks that a step of the optimizer which is captured now does what the steps to come do.

    Raises:
        ValueError: If it does not.
    """
    name = type(masking.technique).__name__
    if not masking.pruned:
        raise ValueError(
            f"{name} has masked nothing yet, so a CUDA graph of this step would mask nothing later; capture it after "
            f"the first masks of {masking.technique.schedule}"
        )
    if masking.listening.now:
        raise ValueError(
            f"{name} reads dense gradients at this step, which a CUDA graph cannot repeat; capture a step before which "
            "schedule.due(sparsifier.steps + 1) is False, or forward and backward alone"
        )
    if optimizer in masking.unmasked_state:
        raise ValueError(
            f"the first step of an attached {type(optimizer).__name__} clears its state, which a CUDA graph must not "
            "repeat; make a step before you capture one"
        )


def check_replay(masking: Masking, step: int | None) -> None:
    """Checks that the step was one that a CUDA graph can make.

    Raises:
        ValueError: If its gradients are evidence, and the graph has masked them.
    """
    if masking.listening.now:
        raise ValueError(
            f"{type(masking.technique).__name__} reads dense gradients at step {step}, which the CUDA graph has "
            "masked; make each step without the graph before which schedule.due(sparsifier.steps + 1) is True"
        )
