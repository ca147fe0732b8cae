"""Gradients of a batch in parts, by several processes or by one that accumulates; both match one big device.

Gradients are summed over all parts, wherever they were computed. Running averages of batch norms move by the mean over
the parts, and noise is drawn for each part, so that the number of processes changes only rounding.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from openwork.noise import key, keyed
from openwork.study.processes import sum_over_processes
from openwork.study.tasks.parts import Parts

Objective = Callable[[Any], tuple[Tensor, Tensor]]
"""batch -> (loss, penalty), both of shape (); their sum is minimised."""


def backward_in_parts(
    objective: Objective, model: nn.Module, parts: Parts, *, seed: int, step: int
) -> tuple[Tensor, Tensor]:
    """Sets the parameters' ``grad`` to the sum over all processes; returns this process's shares of loss and penalty.

    Args:
        objective: The loss and penalty of one part.
        model: The model that ``objective`` runs.
        parts: This process's parts of the batch.
        seed: The run's seed, for the noise of each part.
        step: The step, for the same.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if len(parts.batches) > 1:
        # Allocated here: else a parameter's first gradient is memory of a CUDA graph, which the next part overwrites.
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)
        torch._foreach_zero_([parameter.grad for parameter in parameters if parameter.grad is not None])
    norms = _NormStatistics(model)
    losses, penalties = [], []
    for number, batch in enumerate(parts.batches, parts.first):
        _seed_noise(seed, step, number)
        with noise(seed, step, number, device=parameters[0].device):
            loss, penalty = objective(batch)
        torch.autograd.backward((loss + penalty) / parts.count)
        norms.after_part()
        losses.append(loss.detach() / parts.count)
        penalties.append(penalty.detach() / parts.count)
    norms.end(parts.count)
    sum_over_processes([parameter.grad for parameter in parameters if parameter.grad is not None])
    return torch.stack(losses).sum(), torch.stack(penalties).sum()


def noise(seed: int, step: int, part: int = 0, *, device: torch.device) -> AbstractContextManager[None]:
    """Within it, random weights and dropout draw what belongs to this part of this step's batch.

    Args:
        seed: The run's seed.
        step: The step.
        part: The part's number.
        device: Where the model is.
    """
    # Filled, not copied: a copy would wait for the device.
    return keyed(torch.full((), key(seed, step, part), dtype=torch.int64, device=device))


def _seed_noise(seed: int, step: int, part: int) -> None:
    """Makes torch's generators those of the part, for whatever else draws."""
    torch.manual_seed(int(np.random.SeedSequence(seed, spawn_key=(step, part)).generate_state(1, np.uint64)[0]))


class _NormStatistics:
    """The running averages of a model's batch norms, which move once a step, by the mean over the parts of a batch."""

    def __init__(self, model: nn.Module) -> None:
        norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        buffers = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]
        self.buffers: list[Tensor] = [buffer for buffer in buffers if buffer is not None]
        self.before = [buffer.clone() for buffer in self.buffers]
        self.sums = [torch.zeros_like(buffer) for buffer in self.buffers]
        self.counters = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
        self.steps = [counter + 1 for counter in self.counters[:1]]  # all count the same

    def after_part(self) -> None:
        """Notes what the part has made of the averages, and puts them back."""
        if self.buffers:
            torch._foreach_add_(self.sums, self.buffers)
            torch._foreach_copy_(self.buffers, self.before)

    def end(self, count: int) -> None:
        """After the last part of ``count`` in all processes."""
        if self.buffers:
            sum_over_processes(self.sums)
            torch._foreach_mul_(self.sums, 1 / count)
            torch._foreach_copy_(self.buffers, self.sums)
            torch._foreach_copy_(self.counters, self.steps * len(self.counters))
