"""The training loop."""

from collections.abc import Callable, Iterator

import torch
from torch import nn

from openwork.study.processes import sum_over_processes, world_size
from openwork.study.tasks.parts import Parts
from openwork.study.tasks.task import Task
from openwork.study.training.parts import Objective as Objective  # where `execute` looks for it
from openwork.study.training.parts import backward_in_parts, noise
from openwork.words import count


def train(
    task: Task,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    *,
    steps: int,
    seed: int,
    start: int,
    every: int,
    device: torch.device,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, dict[str, float]]]:
    """Trains from step ``start`` to ``steps``; yields (completed steps, mean losses since the last yield).

    Nothing happens between two yields but training, so the caller may evaluate, save and time as it likes.

    Args:
        task: The benchmark, for batches and learning rates.
        model: The model that ``objective`` runs.
        optimizer: The optimizer of its parameters.
        objective: The loss and penalty of a batch.
        steps: The step to end at.
        seed: The seed of the batches and of the noise.
        start: The completed steps to begin from.
        every: Yield after so many steps, and at the end.
        device: Where the model is.
        progress: Called with the number of completed steps after each step.

    Raises:
        ValueError: If there are several processes, and the task's batches have no parts; if the batches end early.
    """
    model.train()
    totals = torch.zeros(2, device=device)
    counted, done = 0, start
    for step, batch in zip(range(start, steps), task.batches(seed, start, device), strict=False):
        rate = task.learning_rate(step / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        if isinstance(batch, Parts):
            loss, penalty = backward_in_parts(objective, model, batch, seed=seed, step=step)
        elif world_size() > 1:
            raise ValueError(f"{task.title} does not divide its batches among processes; run it without torchrun")
        else:
            with noise(seed, step, device=device):
                loss, penalty = objective(batch)
            torch.autograd.backward(loss + penalty)
        optimizer.step()
        optimizer.zero_grad()
        totals += torch.stack([loss.detach(), penalty.detach()])
        counted, done = counted + 1, step + 1
        if progress:
            progress(step + 1)
        if (step + 1) % every == 0 or step + 1 == steps:
            sum_over_processes([totals])
            mean_loss, mean_penalty = (totals / counted).tolist()
            totals.zero_()
            counted = 0
            yield step + 1, {"train_loss": mean_loss, "penalty": mean_penalty}
    if done < steps:
        raise ValueError(batches_end(task, done, steps))


def batches_end(task: Task, done: int, steps: int) -> str:
    """The sentence for a task whose batches end after ``done`` of ``steps``."""
    of = f"{done} of {count(steps, 'step')}"
    return f"the batches of {task.title} end after {of}; make them endless, as Task.batches says"
