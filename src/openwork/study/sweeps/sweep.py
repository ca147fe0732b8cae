"""A sweep: many runs, each executed once, whatever fails on the way.

A sweep reads all that it knows from the run directories and keeps no state elsewhere: a directory with
``result.json`` is done, one with ``failed.json`` has failed, and every other run is trained. Killed at any moment and
started again, a sweep repeats no finished run and goes on with the interrupted ones.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from openwork.study.files import no_space, writing
from openwork.study.results.folders import refuse_run
from openwork.study.results.history import milestones, read_metrics
from openwork.study.results.result import Result
from openwork.study.runs.claim import ClaimedError, claim, remove_stale
from openwork.study.runs.described import refuse_changed, refuse_old
from openwork.study.runs.execute import execute
from openwork.study.runs.failure import count_failures, write_failure
from openwork.study.runs.precision import Precision
from openwork.study.runs.run import Run, with_prerequisites
from openwork.study.sweeps.outcome import Outcome, State, ended, failure, known_outcome, outcome_since
from openwork.study.tasks.check import check_task

CRASHES = 3  # a run has failed when its process has died so often without a further checkpoint
CLAIMED_SECONDS = 2.0  # before trying a run again that another process trains


@dataclass(frozen=True)
class Options:
    """How to execute a run: the arguments of `execute` that are not part of its identity."""

    device: str = "cpu"
    compile: bool = False
    evaluations: int = 20
    snapshots: int = 0
    precision: Precision = "float32"

    def check(self, runs: Iterable[Run], directory: Path, *, retry_failed: bool = True) -> None:
        """Checks that the runs, and those that they start from, can be kept there, and as often where they are left.

        Args:
            runs: The runs.
            directory: The folder of run directories, which say what is left.
            retry_failed: Failed runs are left, too.

        Raises:
            ValueError: If the folder is the directory of one run, where nobody would find others, a run that is left
                has fewer evaluations than snapshots, or none, or a task fails `check_task`.
        """
        refuse_run(directory)
        for run in with_prerequisites(runs):
            check_task(run.task)
            try:
                milestones(run.steps, self.evaluations, self.snapshots)
            except ValueError:
                if _is_left(known_outcome(directory / run.id), retry_failed):
                    raise


class Engine(Protocol):
    """Where runs are executed."""

    def slots(self) -> int:
        """How many runs to have submitted at a time, at least 1."""

    def submit(self, run: Run, failures: int) -> None:
        """Begins to execute the run, or remembers to.

        Args:
            run: The run.
            failures: How often it had failed when the sweep began.
        """

    def wait(self) -> list[tuple[Run, Outcome]]:
        """The submitted runs that have ended since the last call; [] after about a second without one."""


class Here:
    """Executes runs in this process, one at a time.

    Args:
        directory: The folder of run directories.
        options: How to execute the runs.
        progress: As `execute` takes it.
    """

    def __init__(self, directory: Path, options: Options, progress: Callable[[int], None] | None = None) -> None:
        self._directory, self._options, self._progress = directory, options, progress
        self._submitted: list[tuple[Run, int]] = []

    def slots(self) -> int:
        """One."""
        return 1

    def submit(self, run: Run, failures: int = 0) -> None:
        """Remembers the run."""
        self._submitted.append((run, failures))

    def wait(self) -> list[tuple[Run, Outcome]]:
        """The submitted run, after executing it."""
        submitted, self._submitted = self._submitted, []
        return [(run, attempt(run, self._directory, self._options, self._progress, known)) for run, known in submitted]


@dataclass
class Sweep:
    """The state of a sweep.

    Args:
        directory: The folder of run directories.
        runs: The runs by id, each after what it starts from.
        outcomes: How runs ended, by id.
        submitted: The ids of the runs that an engine has.
        elsewhere: The ids of the runs that other processes are training, which the sweep waits for.
    """

    directory: Path
    runs: dict[str, Run]
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    submitted: set[str] = field(default_factory=set)
    elsewhere: set[str] = field(default_factory=set)
    _begun: dict[str, int] = field(init=False, repr=False, default_factory=dict)  # steps in directories

    def count(self, state: State) -> int:
        """How many runs ended in ``state``."""
        return sum(outcome.state == state for outcome in self.outcomes.values())

    def running(self) -> list[str]:
        """The ids of the submitted runs that have begun."""
        return [id for id in self.submitted if (self.directory / id / "lock").exists()]

    def steps(self, now: int = 0) -> tuple[int, int]:
        """The optimizer steps that are done, without those of failed runs, and the steps that are left.

        Args:
            now: The steps that the engine's unfinished runs have made, where it knows more than their directories say.
                These are then not read again: a fleet is thousands.
        """
        if not now:
            self._begun = {id: completed_steps(self.directory / id) for id in self.submitted}
        partial = max(now, sum(self._begun.get(id, 0) for id in self.submitted))
        done = sum(o.result.step for o in self.outcomes.values() if o.result) + partial
        left = sum(run.steps for id, run in self.runs.items() if id not in self.outcomes) - partial
        return done, left

    def best(self) -> Result | None:
        """The result of the sparse run with the highest score; of the dense runs if all are dense.

        None where nothing has finished, or the runs are judged by different metrics.
        """
        results = [o.result for o in self.outcomes.values() if o.state == "finished" and o.result]
        if len({result.metric for result in results}) != 1:
            return None
        return max(results, key=lambda r: (not r.dense, r.score))


def sweep(
    runs: Iterable[Run],
    directory: Path,
    engine: Engine,
    *,
    retry_failed: bool = False,
    watch: Callable[[Sweep], None] = lambda _: None,
) -> Sweep:
    """Executes the runs and those that they start from, until each has finished, diverged or failed.

    A run that raises has failed, as has one whose process died `CRASHES` times at one place, and one that starts from a
    run that failed or diverged. The sweep waits for a run that another process is training, and takes its result or
    failure.

    Args:
        runs: The runs.
        directory: The folder of run directories.
        engine: Where to execute them.
        retry_failed: Try the runs again that failed in an earlier sweep.
        watch: Called at the beginning and at least every few seconds.

    Raises:
        ValueError: If a task declares no metric or has a learning rate below 0 or infinite; and if the directory has
            runs from before format 2, which had other ids, or results or checkpoints of these runs from when a field
            had another default.
        OSError: If the disk is full, which is no run's fault: finished runs are kept, and a later call goes on.
    """
    refuse_old(directory.glob("*"))
    state = Sweep(directory, {run.id: run for run in with_prerequisites(runs)})
    for id, run in state.runs.items():
        check_task(run.task)
        refuse_changed(run, directory / id)
    waiting: dict[str, list[str]] = defaultdict(list)
    ready: deque[str] = deque()
    claimed: deque[tuple[float, str]] = deque()
    crashes: dict[str, tuple[int, int]] = {}
    failures: dict[str, int] = {}  # of runs that are tried again: before this sweep

    def fail(id: str, reason: str) -> Outcome:
        return failure(state.runs[id], directory, reason, failures.get(id, 0))

    def enqueue(id: str) -> None:
        for needed in state.runs[id].prerequisites:
            outcome = state.outcomes.get(needed.id)
            if outcome is None:
                waiting[needed.id].append(id)
                return
            if outcome.state != "finished":
                settle(id, fail(id, f"it needs run {needed.id}, which {outcome.state}"))
                return
        ready.append(id)

    def settle(id: str, outcome: Outcome) -> None:
        if outcome.state == "claimed":
            claimed.append((time.monotonic() + CLAIMED_SECONDS, id))
            return
        state.outcomes[id] = outcome
        for dependent in waiting.pop(id, []):
            enqueue(dependent)

    for id in state.runs:
        before = count_failures(directory / id)  # first: one that comes in between is not tried again
        known = known_outcome(directory / id)
        if known and not _is_left(known, retry_failed):
            remove_stale(directory / id)  # of a fleet that was killed while it wrote results, most often
            settle(id, known)
        else:
            failures[id] = before
            enqueue(id)
    watch(state)
    while ready or claimed or state.submitted:
        for _ in range(sum(due <= time.monotonic() for due, _ in claimed)):
            enqueue(claimed.popleft()[1])
        while ready and len(state.submitted) < engine.slots():
            id = ready.popleft()
            state.submitted.add(id)
            engine.submit(state.runs[id], failures[id])
        if not state.submitted:
            time.sleep(1)
        for run, outcome in engine.wait():
            state.submitted.remove(id := run.id)
            if outcome.state == "crashed":
                step = completed_steps(directory / id)
                last, times = crashes.get(id, (step, 0))
                crashes[id] = (step, times + 1 if step == last else 1)
                if crashes[id][1] < CRASHES:
                    ready.append(id)
                else:
                    settle(id, fail(id, f"its process died {CRASHES} times: {outcome.reason}"))
            else:
                settle(id, outcome)
        state.elsewhere = {id for _, id in claimed}
        watch(state)
    return state


def _is_left(known: Outcome | None, retry_failed: bool) -> bool:
    """Whether a sweep trains the run of which its directory says ``known``."""
    return known is None or (known.state == "failed" and retry_failed)


def attempt(
    run: Run,
    directory: Path,
    options: Options,
    progress: Callable[[int], None] | None = None,
    failures: int = 0,
) -> Outcome:
    """Executes the run in this process and returns how that ended; records a failure in its ``failed.json``.

    Args:
        run: The run.
        directory: The folder of run directories.
        options: How to execute it.
        progress: As `execute` takes it.
        failures: How often it had failed when its sweep began: where it has failed since, in another process, it is not
            tried again.

    Raises:
        OSError: If the disk is full.
    """
    folder = directory / run.id
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with claim(folder):
            return outcome_since(folder, failures) or _attempt(run, directory, options, progress)
    except ClaimedError as error:
        return Outcome("claimed", reason=str(error))


def _attempt(run: Run, directory: Path, options: Options, progress: Callable[[int], None] | None) -> Outcome:
    """`attempt` of a run whose directory is claimed."""
    try:
        result = execute(
            run,
            directory,
            device=options.device,
            compile=options.compile,
            evaluations=options.evaluations,
            snapshots=options.snapshots,
            precision=options.precision,
            progress=progress,
            claimed=True,
        )
    except Exception as error:
        if isinstance(error, ClaimedError) or (isinstance(error, OSError) and no_space(error)):
            raise  # somebody trains what it starts from, or there is no space for any run
        return Outcome("failed", reason=write_failure(run, directory / run.id, error))
    return ended(result)


def completed_steps(folder: Path) -> int:
    """The steps of an unfinished run's last checkpoint, from which it would go on; 0 where its rows cannot be read."""
    try:
        evaluations = read_metrics(folder)
    except ValueError:  # its checkpoint has them, too
        return 0
    return evaluations[-1].step if evaluations else 0
