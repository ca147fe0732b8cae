"""A fleet: runs that are trained as one model, each evaluated, saved and recorded in its own directory."""

import time
from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from openwork.study.files import remove_leftovers
from openwork.study.fleet.member import Member
from openwork.study.fleet.memory import no_memory
from openwork.study.fleet.same import check_same
from openwork.study.fleet.stack import SomeModels, StackedModels
from openwork.study.fleet.training import Training
from openwork.study.fleet.trial import Trial, generators
from openwork.study.fleet.writers import Forks, Results, SharedMemory, Threads
from openwork.study.results.history import milestones, write_snapshot
from openwork.study.results.result import Result
from openwork.study.runs.density import Density, densities
from openwork.study.runs.precision import Precision
from openwork.study.runs.record import (
    Final,
    Machine,
    dense_flops,
    evaluated,
    finals,
    finite,
    machine,
    record,
    save,
    write_rows,
)
from openwork.study.tasks.measure import final_metrics_of, metrics_of
from openwork.study.tasks.task import Models, Task
from openwork.study.training.loop import batches_end

CHECKPOINT_SECONDS = 60.0
"""Between two checkpoints of the runs of a fleet: they are many files, and little is lost."""
SAVING_SECONDS = 6.0
"""For which checkpoints may be written each time; where it takes longer, as many times as long lies between two."""
COPIES = 256
"""Finalized models at a time."""
MOVED = 2**29
"""Bytes of parameters at a time that leave the device, or one model."""
Measure = Callable[[Task, Models, torch.device], list[dict[str, float]]]


class Fleet:
    """Runs that are trained as one model, from the step that all of them have come to.

    Args:
        members: The runs; those with equal tasks are neighbours.
        evaluations: As `execute` takes it.
        snapshots: As `execute` takes it.
        compile: As `execute` takes it.
        precision: As `execute` takes it.
        trial: The next step of the last run, alone; None where there is no other.

    Raises:
        ValueError: If the runs cannot be stacked.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        evaluations: int,
        snapshots: int,
        compile: bool,
        precision: Precision,
        trial: Trial | None = None,
    ) -> None:
        self.members, self.precision, self.trial = members, precision, trial
        first = members[0].live
        self.run, self.device = first.run, first.device
        self.every, self.kept = milestones(self.run.steps, evaluations, snapshots)
        self.dense = dense_flops(first)
        self.leaves = self.device.type != "cpu"
        """Whether models leave the device before they are recorded, by processes."""
        self.saved = members[0].step
        """The step of the checkpoints; 0 where there are none."""
        self.drawn: Tensor | None = None
        """The state of torch's generators at the first step."""
        self.training = Training(
            [member.live for member in members],
            start=members[0].step,
            optimizers=[member.optimizer for member in members if member.optimizer and self.saved < self.run.steps],
            compile=compile,
            precision=precision,
        )

    def train(self, progress: Callable[[int], None]) -> None:
        """Trains the runs to their end, and records each.

        Args:
            progress: Called after each step, with the steps of all runs together.
        """
        training = self.training
        saved, until_next, began = time.monotonic(), CHECKPOINT_SECONDS, time.perf_counter()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        if training.done == 0 and 0 in self.kept:
            self._snapshot(0)
        for _, batch in zip(range(training.done, self.run.steps), training.batches(), strict=False):
            self.drawn = generators(self.device) if self.drawn is None else self.drawn
            diverged = training.step(batch).diverged
            if self.trial:
                exact = self.device.type == "cpu" or self.precision == "float32"
                self.trial.check(training, len(self.members) - 1, exact=exact)
                self.trial = None
            if diverged:
                began = self._count_seconds(began)
                for number in diverged:
                    self._diverge(self.members[number], training.done)
            progress(training.done * len(self.members))
            if training.done % self.every == 0 or training.done == self.run.steps:
                losses = training.losses()
                self._count_seconds(began)
                self._evaluate(training.done, *losses)
                self._check()
                if not self._unfinished():
                    return
                if training.done in self.kept:
                    self._snapshot(training.done)
                # Not at the last step: results follow, which need less.
                if training.done < self.run.steps and (now := time.monotonic()) - saved > until_next:
                    self._save()
                    saved = time.monotonic()
                    until_next = CHECKPOINT_SECONDS * max((saved - now) / SAVING_SECONDS, 1.0)
                began = time.perf_counter()
        if training.done < self.run.steps:
            raise ValueError(batches_end(self.run.task, training.done, self.run.steps))
        self._finish()

    def _check(self) -> None:
        """Raises ValueError where runs alone would have drawn other numbers, or kept what only the first one has."""
        check_same(self.training.stack.each[:2], trained=True)
        if self.drawn is not None and not torch.equal(generators(self.device), self.drawn):
            what = " or ".join(dict.fromkeys([self.run.task.title, self.run.name]))
            raise ValueError(f"{what} draws from torch's generator, which gives each run other numbers alone")

    def _unfinished(self) -> list[int]:
        """The numbers of the runs that have not ended."""
        return [number for number, member in enumerate(self.members) if member.result is None]

    def _count_seconds(self, began: float) -> float:
        """Adds to each run its share of the time since ``began``; returns the time now."""
        now = time.perf_counter()
        for number in self._unfinished():
            self.members[number].seconds += (now - began) / len(self.members)
        return now

    def _evaluate(self, step: int, losses: Sequence[float], penalties: Sequence[float]) -> None:
        of_losses = [{"train_loss": loss, "penalty": p} for loss, p in zip(losses, penalties, strict=True)]
        for number in self._unfinished():
            if not finite(of_losses[number]):
                self._diverge(self.members[number], step)
        numbers = self._unfinished()
        for number in numbers:
            if sparsifier := self.members[number].live.sparsifier:
                sparsifier.count_to(step)
        measured = self._measured(metrics_of, numbers)
        densities = self._densities()
        for number, found in zip(numbers, measured, strict=True):
            member, losses_too = self.members[number], of_losses[number] | found
            row = evaluated(densities[number], self.dense, losses_too, step=step, seconds=member.seconds)
            if finite(row):
                member.rows.append(row)
            else:
                self._diverge(member, step)

    def _densities(self) -> Sequence[Density | None]:
        """How sparse each run is."""
        sparsifier, stacked = self.members[0].live.sparsifier, self.training.stack.mechanism
        return densities(sparsifier, stacked) if sparsifier and stacked else [None] * len(self.members)

    def _measured(self, measure: Measure, numbers: Sequence[int]) -> list[dict[str, float]]:
        """What ``measure`` returns for the runs of these numbers: a task may raise for a model that has diverged."""
        if not numbers:
            return []
        stack = self.training.stack
        models = stack if len(numbers) == len(self.members) else SomeModels(stack, numbers)
        return measure(stack.task, models, self.device)

    def _diverge(self, member: Member, step: int) -> None:
        """Records that the run has diverged; its row stays in the stack, where it disturbs no other."""
        self._check()  # alone it might not have diverged
        if member.result is None:
            member.result = self._write(member, machine(self.device, self.precision, len(self.members)), step)

    def _finish(self) -> None:
        """Measures the runs at their end, some at a time, since each needs a finalized copy, and records them.

        Those that have been measured are recorded while the next ones are. Where the memory is too small, fewer are
        measured at a time, as their training is done.
        """
        task, stack, numbers = self.run.task, self.training.stack, self._unfinished()
        # Where training is watched on other data, only the models that are reported read the test set.
        measure = final_metrics_of if task.watched_on == task.judged_on else metrics_of
        pairs = list(zip(numbers, self._measured(measure, numbers), strict=True))
        at_once = self._at_once()
        times = len(self.members) // max(min(at_once, len(pairs)), 1)
        memories, written = deque([SharedMemory(), SharedMemory()]), deque[tuple[Sequence[Member], Results]]()
        with (Forks if self.leaves else Threads)(self._write) as writers:
            while pairs:
                places, before = zip(*pairs[:at_once], strict=True)
                members = [self.members[place] for place in places]
                try:
                    plain, ends = self._ends(members, before, times)
                except Exception as error:
                    if not no_memory(error) or len(members) == 1:
                        raise
                    at_once = len(members) // 2
                    continue
                if len(written) == len(memories):
                    _end(*written.popleft())
                if self.leaves:
                    memories.rotate()
                    memories[0].clear()
                    stack.leave(places, memories[0].copied)
                    plain.leave(range(len(members)), memories[0].copied)
                del plain  # and what it holds on the device, before the next ones are made
                here = machine(self.device, self.precision, len(self.members))
                items = [(member, here, self.run.steps, end) for member, end in zip(members, ends, strict=True)]
                written.append((members, writers.begin(items)))
                del pairs[:at_once]
            for each in written:
                _end(*each)

    def _ends(
        self, members: Sequence[Member], before: Sequence[dict[str, float]], times: int
    ) -> tuple[StackedModels, list[Final]]:
        """The finalized models, shown ``times`` batches at once, and how the runs end; ``before`` are their metrics."""
        in_turn = not self.training.stack.together
        plain = StackedModels(self._finalized(members), in_turn=in_turn, batches_at_once=times)
        after = final_metrics_of(self.training.stack.task, plain, self.device)
        measured = zip([member.rows[-1]["sparsity"] for member in members], before, after, strict=True)
        return plain, finals(plain.each, self.run.select, plain.parameters | plain.buffers, measured)

    def _at_once(self) -> int:
        """How many runs to finish at a time."""
        if not self.leaves:
            return COPIES
        parameters = self.training.stack.parameters.values()
        size = sum(whole[0].numel() * whole.element_size() for whole in parameters)
        return max(min(COPIES, MOVED // size), 1)

    def _finalized(self, members: Sequence[Member]) -> list[nn.Module]:
        """A finalized copy of each of these runs' models; the model itself where nothing makes it sparse."""
        sparsifiers = [member.live.sparsifier for member in members if member.live.sparsifier]
        mechanism = self.training.stack.mechanism
        return mechanism.finalized_copies(sparsifiers) if mechanism else [member.live.model for member in members]

    def _write(self, member: Member, machine: Machine, step: int, final: Final | None = None) -> Result:
        """Writes how the run ended, in another process perhaps, which cannot ask the device for anything."""
        remove_leftovers(member.folder)  # of such a process that was killed
        write_rows(member.folder, member.rows)
        return record(
            member.live,
            member.folder,
            machine,
            step=step,
            seconds=member.seconds,
            final=final,
            rows=member.rows,
            saved=self.saved == step,
        )

    def _snapshot(self, step: int) -> None:
        for number in self._unfinished():
            member = self.members[number]
            write_snapshot(member.folder, step, member.live.finalized_weights())

    def _save(self) -> None:
        self.saved = self.training.done
        for member, state in zip(self.members, self.training.states(), strict=True):
            if member.result is None:
                save(member.live, state, member.folder, member.rows)


def _end(members: Sequence[Member], results: Results) -> None:
    """Waits for the results of the members."""
    for member, result in zip(members, results(), strict=True):
        member.result = result
