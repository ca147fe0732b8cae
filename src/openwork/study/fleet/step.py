"""A step of a fleet: eager on a CPU; on a GPU as CUDA graphs, compiled where that is wanted."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from openwork.core.stacked import Updated
from openwork.study.fleet.optimizers import StackedOptimizer
from openwork.study.fleet.stack import Stack

EAGER = 3
"""Steps before CUDA graphs are captured, in which optimizers and libraries allocate what they keep."""


class Step:
    """What a fleet does at each step.

    Args:
        stack: The models.
        optimizers: Their optimizers.
        steps: The steps of the runs.
        start: The completed ones.
        shared: Whether all runs have the same batches.
        compile: Compile what computes the gradients.
    """

    def __init__(
        self,
        stack: Stack,
        optimizers: Sequence[StackedOptimizer],
        *,
        steps: int,
        start: int,
        shared: bool,
        compile: bool,
    ) -> None:
        self.stack, self.optimizers, self.mechanism = stack, optimizers, stack.mechanism
        self.steps, self.done = steps, start
        device = stack.keys.device
        self._counter = torch.full((), start, dtype=torch.int64, device=device)
        self._losses = torch.zeros(2, len(stack.lives), device=device)
        self._counted, self._eager = 0, EAGER
        self._compute = stack.gradients(shared=shared, compile=compile)
        self._on_gpu = device.type == "cuda"
        self._batch: Any = None  # that a graph reads
        self._gradients: dict[str, Tensor] = {}
        self._graphs: list[torch.cuda.CUDAGraph | None] = [None, None]

    def __call__(self, batch: Any) -> Updated:
        """Trains the models on a batch; returns what the update after it changed."""
        for optimizer in self.optimizers:
            optimizer.rate(self.done / self.steps)
        self._take_in(batch)
        self._do(0, self._differentiate, graph=self._on_gpu)
        if self.mechanism:
            self.mechanism.take(self.done + 1, self._gradients)
        self._do(1, self._move, graph=self._on_gpu and not any(each.waits for each in self.optimizers))
        self.done += 1
        self._counted += 1
        self._eager = max(self._eager - 1, 0)
        if not self.mechanism:
            return Updated()
        updated = self.mechanism.update(self.done)
        if updated.changed:
            for optimizer in self.optimizers:
                optimizer.clear(self.mechanism.masks)
        if updated.recapture:
            self._graphs[1] = None
        return updated

    def losses(self) -> tuple[list[float], list[float]]:
        """The mean losses and penalties of each run since the last call; waits for the device."""
        losses, penalties = (self._losses / self._counted).tolist()
        self._losses.zero_()
        self._counted = 0
        return losses, penalties

    def _take_in(self, batch: Any) -> None:
        if not self._on_gpu or self._batch is None:
            self._batch = batch
        else:
            tree_map(lambda kept, new: kept.copy_(new, non_blocking=True), self._batch, batch)

    def _do(self, number: int, work: Callable[[], None], *, graph: bool) -> None:
        """Does one of the two parts of a step."""
        if not graph or self._eager:
            work()
            return
        captured = self._graphs[number]
        if captured is None:
            captured = self._graphs[number] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured):
                work()
        captured.replay()

    def _differentiate(self) -> None:
        losses, penalties, self._gradients = self._compute(self._batch, self._counter)
        self._losses += torch.stack([losses, penalties])
        self._counter += 1

    def _move(self) -> None:
        if self.mechanism:
            self.mechanism.before_step(self._gradients)
        for optimizer in self.optimizers:
            optimizer.step(self._gradients)
        if self.mechanism:
            self.mechanism.after_step()
