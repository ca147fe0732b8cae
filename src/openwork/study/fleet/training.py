"""The training of a fleet: the loop of `openwork.study.training.loop` for stacked models."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openwork.study.fleet.optimizers import StackedOptimizer
from openwork.study.fleet.stack import Stack, StackedModels
from openwork.study.fleet.step import Step
from openwork.study.results.history import snapshot_steps, write_snapshot
from openwork.study.results.result import Result
from openwork.study.runs.execute import Final, dense_flops, evaluated, finite, record, save, write_rows
from openwork.study.runs.live import Live
from openwork.study.tasks.task import final_metrics_of, metrics_of

CHECKPOINT_SECONDS = 60.0
"""Between two checkpoints of the runs of a fleet: they are many files, and little is lost."""
COPIES = 256
"""Finalized models at a time."""


@dataclass
class Member:
    """A run of a fleet.

    Args:
        live: The run, with the weights and masks of its checkpoint.
        folder: Its directory, which this process has claimed.
        optimizer: The state of its optimizer; None where there is no checkpoint.
        rows: Its evaluations.
        seconds: Its share of the training time.
        result: How it ended; None while it is trained.
    """

    live: Live
    folder: Path
    optimizer: dict[str, Any] | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    result: Result | None = None


class Fleet:
    """Runs that are trained as one model, from the step that all of them have come to.

    Args:
        members: The runs; those with equal tasks are neighbours.
        evaluations: As `execute` takes it.
        snapshots: As `execute` takes it.

    Raises:
        ValueError: If the runs cannot be stacked.
    """

    def __init__(self, members: Sequence[Member], *, evaluations: int, snapshots: int, compile: bool) -> None:
        self.members = members
        first = members[0].live
        self.run, self.device = first.run, first.device
        self.every = max(self.run.steps // evaluations, 1)
        self.kept = snapshot_steps(self.run.steps, self.every, snapshots)
        self.dense = dense_flops(first)
        self.stack = Stack([member.live for member in members])
        lives = self.stack.lives
        self.optimizers = [StackedOptimizer(lives, place, self.stack.parameters) for place in _equal_tasks(lives)]
        for optimizer in self.optimizers:
            if saved := [member.optimizer for member in members[optimizer.place] if member.optimizer]:
                optimizer.load(saved)
        self.start = members[0].rows[-1]["step"] if members[0].rows else 0
        self.seeds = [live.run.task.batch_seed(live.run.seed) for live in lives]
        self.shared = len(set(self.seeds)) == 1
        self.step = Step(
            self.stack, self.optimizers, steps=self.run.steps, start=self.start, shared=self.shared, compile=compile
        )

    def train(self, progress: Callable[[int], None]) -> None:
        """Trains the runs to their end, and records each; calls ``progress`` with the number of each step."""
        saved, began = time.monotonic(), time.perf_counter()
        if self.start == 0 and 0 in self.kept:
            self._snapshot(0)
        for live in self.stack.lives:
            live.model.train()
        for done, batch in zip(range(self.start + 1, self.run.steps + 1), self._batches(), strict=False):
            for number in self.step(batch).diverged:
                self._diverge(self.members[number], done)
            progress(done)
            if done % self.every == 0 or done == self.run.steps:
                losses = self.step.losses()
                for member in self.training():
                    if member.live.sparsifier:
                        member.live.sparsifier.count_to(done)
                self._count_seconds(time.perf_counter() - began)
                self._evaluate(done, *losses)
                if done in self.kept:
                    self._snapshot(done)
                if done < self.run.steps and time.monotonic() - saved > CHECKPOINT_SECONDS:
                    self._save()
                    saved = time.monotonic()
                began = time.perf_counter()
        self._finish()

    def training(self) -> list[Member]:
        """The runs that have not ended."""
        return [member for member in self.members if member.result is None]

    def _batches(self) -> Iterator[Any]:
        task = self.run.task
        if self.shared:
            return task.batches(self.seeds[0], self.start, self.device)
        return task.stacked_batches(self.seeds, self.start, self.device)

    def _evaluate(self, step: int, losses: Sequence[float], penalties: Sequence[float]) -> None:
        measured = metrics_of(self.run.task, self.stack, self.device)
        for member, found, loss, penalty in zip(self.members, measured, losses, penalties, strict=True):
            if member.result is not None:
                continue
            of_losses = {"train_loss": loss, "penalty": penalty}
            if not finite(of_losses):
                self._diverge(member, step)
                continue
            row = evaluated(member.live, self.dense, of_losses | found, step=step, seconds=member.seconds)
            if finite(row):
                member.rows.append(row)
            else:
                self._diverge(member, step)

    def _diverge(self, member: Member, step: int) -> None:
        """Records that the run has diverged; its row stays in the stack, where it disturbs no other."""
        if member.result is None:
            self._record(member, step)

    def _finish(self) -> None:
        """Measures the runs at their end, some at a time, since each needs a finalized copy, and records them."""
        task, device = self.run.task, self.device
        # Where training is watched on other data, only the models that are reported read the test set.
        final = task.watched_on == task.judged_on
        before = final_metrics_of(task, self.stack, device) if final else metrics_of(task, self.stack, device)
        pairs = [(member, found) for member, found in zip(self.members, before, strict=True) if member.result is None]
        for some in (pairs[first : first + COPIES] for first in range(0, len(pairs), COPIES)):
            plain = StackedModels([member.live.finalized_copy() for member, _ in some])
            after = final_metrics_of(task, plain, device)
            for (member, found), model, last in zip(some, plain.each, after, strict=True):
                self._record(member, self.run.steps, Final(model, found, last))

    def _record(self, member: Member, step: int, final: Final | None = None) -> None:
        write_rows(member.folder, member.rows)
        width = len(self.members)
        member.result = record(member.live, member.folder, step=step, seconds=member.seconds, final=final, fleet=width)

    def _count_seconds(self, seconds: float) -> None:
        for member in self.members:
            member.seconds += seconds / len(self.members)

    def _snapshot(self, step: int) -> None:
        for member in self.training():
            write_snapshot(member.folder, step, member.live.finalized_weights())

    def _save(self) -> None:
        states = [state for optimizer in self.optimizers for state in optimizer.states()]
        for member, state in zip(self.members, states, strict=True):
            if member.result is None:
                save(member.live, state, member.folder, member.rows)


def _equal_tasks(lives: Sequence[Live]) -> list[slice]:
    """Where the runs with equal tasks lie."""
    starts = [n for n, live in enumerate(lives) if n == 0 or live.run.task != lives[n - 1].run.task]
    return [slice(begin, end) for begin, end in zip(starts, [*starts[1:], len(lives)], strict=True)]
