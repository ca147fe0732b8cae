"""The steps of a fleet: eager on a CPU; on a GPU as CUDA graphs, compiled where that is wanted."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from openwork.core.stacked import Updated
from openwork.kernels.adam import path as adam_path
from openwork.study.fleet.adam import Adam
from openwork.study.fleet.common import DiffersError
from openwork.study.fleet.fused import fused_linears
from openwork.study.fleet.optimizers import StackedOptimizer
from openwork.study.fleet.same import same
from openwork.study.fleet.stack import Stack
from openwork.study.runs.live import Live
from openwork.study.runs.precision import Precision
from openwork.study.tasks.stacked import stacked_batches, taking

EAGER = 3
"""Steps before CUDA graphs are captured, in which optimizers and libraries allocate what they keep."""


class Training:
    """The training of runs as one model.

    Args:
        lives: The runs; those with equal tasks are neighbours.
        start: The steps that all of them have completed.
        optimizers: The state of each run's optimizer, where there is one.
        compile: Compile what computes the gradients.
        precision: Of products on a GPU. With "tf32" and "bf16" Linear layers are trained without their gradients in
            memory (`openwork.study.fleet.fused`), where they are not compiled.

    Attributes:
        stack: Their models.
        done: The completed steps.

    Raises:
        ValueError: If the runs cannot be trained as one model.
    """

    def __init__(
        self,
        lives: Sequence[Live],
        *,
        start: int = 0,
        optimizers: Sequence[dict[str, Any]] = (),
        compile: bool = False,
        precision: Precision = "float32",
    ) -> None:
        self.run, self.device, self.done = lives[0].run, lives[0].device, start
        self.stack = Stack(lives)
        self.mechanism = self.stack.mechanism
        self._optimizers = [StackedOptimizer(lives, place, self.stack.parameters) for place in _equal_tasks(lives)]
        if optimizers:
            for optimizer in self._optimizers:
                optimizer.load(optimizers[optimizer.place])
        self._shared = self._sees_one_batch()
        fuses = self.device.type == "cuda" and precision != "float32" and not compile and self.stack.together
        rounded = "bf16" if precision == "bf16" else "tf32"
        marked = self.mechanism.masks if self.mechanism and not self.mechanism.moves_hidden else {}
        self._adam = Adam(self._optimizers, marked)
        self._fused = fused_linears(self.stack, self._adam, precision=rounded) if fuses else None
        self._compute = self.stack.gradients(
            shared=self._shared,
            compile=compile,
            without=self._fused.names if self._fused else (),
            anchor=self._fused.anchor if self._fused else None,
        )
        if adam_path(self.device, torch.float32).name == "Triton":  # torch's step is faster than the plain one
            self._take_parameters()
        self._take: Callable[[Any], Any] = lambda batch: batch
        if not self._shared:
            self._take = taking(self.stack.task, self.device, self._fused.rounding if self._fused else None)
        self._counter = torch.full((), start, dtype=torch.int64, device=self.device)
        self._losses = torch.zeros(2, len(lives), device=self.device)
        self._counted, self._eager = 0, EAGER
        self._batch: Any = None
        self._gradients: dict[str, Tensor] = {}
        self._graphs: list[torch.cuda.CUDAGraph | None] = [None, None]
        for live in lives:
            live.model.train()

    def batches(self) -> Iterator[Any]:
        """The batches of the steps to come: those of one run where all see the same, otherwise for `Task.taking`."""
        task, runs = self.stack.task, [live.run for live in self.stack.lives]
        if self._shared:
            return task.batches(self.run.seed, self.done, self.device)
        return stacked_batches(task, [run.task for run in runs], [run.seed for run in runs], self.done, self.device)

    def step(self, batch: Any) -> Updated:
        """Trains the models on a batch; returns what the update after it changed."""
        on_gpu = self.device.type == "cuda"
        for optimizer in self._optimizers:
            optimizer.rate(self.done / self.run.steps)
        self._adam.rate(self.done / self.run.steps)
        if on_gpu and self._batch is not None:
            tree_map(lambda kept, new: kept.copy_(new, non_blocking=True), self._batch, batch)  # where graphs read it
        else:
            self._batch = batch
        self._do(0, self._differentiate, captured=on_gpu)
        if self.mechanism:
            self.mechanism.take(self.done + 1, self._gradients)
        self._do(1, self._move, captured=on_gpu and not any(each.waits for each in self._optimizers))
        self.done += 1
        self._counted += 1
        self._eager = max(self._eager - 1, 0)
        return self._update()

    def states(self) -> list[dict[str, Any]]:
        """The state of each run's optimizer."""
        return [state for optimizer in self._optimizers for state in optimizer.states()]

    def losses(self) -> tuple[list[float], list[float]]:
        """The mean losses and penalties of each run since the last call; waits for the device."""
        losses, penalties = (self._losses / self._counted).tolist()
        self._losses.zero_()
        self._counted = 0
        return losses, penalties

    def last_losses(self) -> list[float]:
        """The sum of loss and penalty of each run in all steps since `losses` was called; waits for the device."""
        found: list[float] = self._losses.sum(0).tolist()
        return found

    def _sees_one_batch(self) -> bool:
        """Whether one batch serves all runs: their batches have one seed, and depend on nothing else that differs."""
        task, runs = self.stack.task, [live.run for live in self.stack.lives]
        if len({run.task.batch_seed(run.seed) for run in runs}) > 1:
            return False
        seeds = [*dict.fromkeys(run.seed for run in runs)][:2]
        if task is self.run.task and len(seeds) == 1:
            return True
        try:
            drawn = [next(iter(task.batches(seed, self.done, self.device)), None) for seed in seeds]
        except DiffersError:
            return False
        return same(drawn[0], drawn[-1])

    def _update(self) -> Updated:
        if not self.mechanism:
            return Updated()
        updated = self.mechanism.update(self.done)
        if updated.changed:
            for optimizer in self._optimizers:
                optimizer.clear(self.mechanism.masks)
                optimizer.restart(updated.restarted, self.mechanism.masks)
            self._adam.take_masks()
        if updated.recapture:
            self._graphs[1] = None
        return updated

    def _do(self, number: int, work: Callable[[], None], *, captured: bool) -> None:
        """Does one of the two parts of a step."""
        if not captured or self._eager:
            work()
            return
        graph = self._graphs[number]
        if graph is None:
            graph = self._graphs[number] = torch.cuda.CUDAGraph()
            # Other threads may go on, as those that draw batches do: they allocate pinned memory.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                work()
        graph.replay()

    def _differentiate(self) -> None:
        with self._fused.training() if self._fused else nullcontext():
            losses, penalties, self._gradients = self._compute(self._take(self._batch), self._counter)
        self._losses += torch.stack([losses, penalties])
        self._counter += 1

    def _take_parameters(self) -> None:
        """Lets `Adam` move the parameters that have gradients in memory, where it can."""
        fused = self._fused.names if self._fused else ()
        for name in sorted(self._adam.settings.keys() - fused):
            if self.stack.parameters[name].dtype == torch.float32:
                self._adam.take(name, self.stack.parameters[name])

    def _move(self) -> None:
        own = self._adam.names
        usual = {name: each for name, each in self._gradients.items() if name not in own}
        if self.mechanism:
            marked = own & self._adam.masked
            self.mechanism.before_step({name: each for name, each in self._gradients.items() if name not in marked})
        for optimizer in self._optimizers:
            optimizer.step(usual)
        if self._fused:
            self._fused.step()
        self._adam.step(self._gradients)
        if self.mechanism:
            self.mechanism.after_step()


def _equal_tasks(lives: Sequence[Live]) -> list[slice]:
    """Where the runs with equal tasks lie."""
    starts = [n for n, live in enumerate(lives) if n == 0 or live.run.task != lives[n - 1].run.task]
    return [slice(begin, end) for begin, end in zip(starts, [*starts[1:], len(lives)], strict=True)]
