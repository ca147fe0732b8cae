"""A fleet: runs that are trained as one model, each evaluated, saved and recorded in its own directory."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

from openwork.study.fleet.stack import StackedModels
from openwork.study.fleet.training import Training
from openwork.study.results.history import snapshot_steps, write_snapshot
from openwork.study.results.result import Result
from openwork.study.runs.execute import Final, dense_flops, evaluated, finite, record, save, write_rows
from openwork.study.runs.live import Live
from openwork.study.runs.precision import Precision
from openwork.study.tasks.task import final_metrics_of, metrics_of
from openwork.study.training.loop import batches_end

CHECKPOINT_SECONDS = 60.0
"""Between two checkpoints of the runs of a fleet: they are many files, and little is lost."""
COPIES = 256
"""Finalized models at a time."""
WRITERS = 8
"""Threads that write results."""


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
        compile: As `execute` takes it.
        precision: As `execute` takes it.

    Raises:
        ValueError: If the runs cannot be stacked.
    """

    def __init__(
        self, members: Sequence[Member], *, evaluations: int, snapshots: int, compile: bool, precision: Precision
    ) -> None:
        self.members, self.precision = members, precision
        first = members[0].live
        self.run, self.device = first.run, first.device
        self.every = max(self.run.steps // evaluations, 1)
        self.kept = snapshot_steps(self.run.steps, self.every, snapshots)
        self.dense = dense_flops(first)
        self.training = Training(
            [member.live for member in members],
            start=members[0].rows[-1]["step"] if members[0].rows else 0,
            optimizers=[member.optimizer for member in members if member.optimizer],
            compile=compile,
            precision=precision,
        )

    def train(self, progress: Callable[[int], None]) -> None:
        """Trains the runs to their end, and records each.

        Args:
            progress: Called after each step, with the steps of all runs together.
        """
        training = self.training
        saved, began = time.monotonic(), time.perf_counter()
        if training.done == 0 and 0 in self.kept:
            self._snapshot(0)
        for _, batch in zip(range(training.done, self.run.steps), training.batches(), strict=False):
            for number in training.step(batch).diverged:
                self._diverge(self.members[number], training.done)
            progress(training.done * len(self.members))
            if training.done % self.every == 0 or training.done == self.run.steps:
                losses = training.losses()
                for member in self.members:
                    member.seconds += (time.perf_counter() - began) / len(self.members)
                self._evaluate(training.done, *losses)
                if training.done in self.kept:
                    self._snapshot(training.done)
                if time.monotonic() - saved > CHECKPOINT_SECONDS:
                    self._save()
                    saved = time.monotonic()
                began = time.perf_counter()
        if training.done < self.run.steps:
            raise ValueError(batches_end(self.run.task, training.done, self.run.steps))
        self._finish()

    def unfinished(self) -> list[Member]:
        """The runs that have not ended."""
        return [member for member in self.members if member.result is None]

    def _evaluate(self, step: int, losses: Sequence[float], penalties: Sequence[float]) -> None:
        for member in self.unfinished():
            if member.live.sparsifier:
                member.live.sparsifier.count_to(step)
        measured = metrics_of(self.run.task, self.training.stack, self.device)
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
        task, device, stack = self.run.task, self.device, self.training.stack
        # Where training is watched on other data, only the models that are reported read the test set.
        measured = final_metrics_of if task.watched_on == task.judged_on else metrics_of
        before = zip(self.members, measured(task, stack, device), strict=True)
        pairs = [(member, found) for member, found in before if member.result is None]
        with ThreadPoolExecutor(WRITERS) as pool:  # most of the time is that of the disk
            for some in (pairs[first : first + COPIES] for first in range(0, len(pairs), COPIES)):
                plain = StackedModels([member.live.finalized_copy() for member, _ in some])
                after = final_metrics_of(task, plain, device)
                finals = [Final(m, b, a) for m, (_, b), a in zip(plain.each, some, after, strict=True)]
                members = [member for member, _ in some]
                for _ in pool.map(self._record, members, repeat(self.run.steps), finals):
                    pass  # what one raised is raised here

    def _record(self, member: Member, step: int, final: Final | None = None) -> None:
        write_rows(member.folder, member.rows)
        member.result = record(
            member.live,
            member.folder,
            step=step,
            seconds=member.seconds,
            final=final,
            precision=self.precision,
            fleet=len(self.members),
        )

    def _snapshot(self, step: int) -> None:
        for member in self.unfinished():
            write_snapshot(member.folder, step, member.live.finalized_weights())

    def _save(self) -> None:
        for member, state in zip(self.members, self.training.states(), strict=True):
            if member.result is None:
                save(member.live, state, member.folder, member.rows)
