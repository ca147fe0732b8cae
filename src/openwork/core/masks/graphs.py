"""Which steps may be those of a CUDA graph, which repeats what the device did and asks nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from openwork.core.following import capturing

if TYPE_CHECKING:
    from openwork.core.masks.mechanism import Masking


def checked_capture(masking: Masking, optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer's step is captured now.

    Raises:
        ValueError: If it is, and does not what the steps to come do.
    """
    if not capturing():
        return False
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
            f"the first step of {type(optimizer).__name__} under masks clears its state and loads kernels, which a "
            "CUDA graph must not repeat; make a step before you capture one"
        )
    return True


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
