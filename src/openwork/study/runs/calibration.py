"""What a run's technique looks at before training: the run's first batches, or nothing but the shape of an input."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor, nn

from openwork.core.masks.listening import calibrates
from openwork.core.masks.technique import MaskTechnique
from openwork.core.mechanism import Calibrate
from openwork.core.technique import Technique
from openwork.study.runs.run import Run
from openwork.study.tasks.parts import Parts

GRADIENTS = 100
"""How many batches' gradients a technique sees that looks at each of them on its own."""


def calibration(run: Run, technique: Technique, device: torch.device) -> Calibrate | None:
    """What `sparsify` takes as ``calibrate``; None for a technique that looks at the weights or the training alone.

    It sees the run's first training batch, where it is told apart from others its first `GRADIENTS` ones, and gets its
    outputs from the task's example.

    Args:
        run: The run, for its task and its seed.
        technique: The technique.
        device: Where the model is.
    """
    if not isinstance(technique, MaskTechnique) or not calibrates(technique):
        return None
    task, evidence = run.task, technique.evidence
    count = GRADIENTS if evidence.gradients == "every backward" else 1

    def outputs(model: nn.Module) -> Tensor:
        example = task.example(device)
        found: Tensor = model(*example) if isinstance(example, tuple) else model(example)
        return found

    def losses(model: nn.Module) -> Iterator[Tensor]:
        for batch in islice(task.batches(run.seed, 0, device), count):
            for part in batch.batches if isinstance(batch, Parts) else [batch]:
                yield task.loss(model, part)

    def passes(model: nn.Module) -> None:
        for loss in losses(model):
            if evidence.differentiates:
                loss.backward()  # type: ignore[no-untyped-call]

    return {"outputs": outputs, "a loss": losses, "nothing": passes}[evidence.returns]
