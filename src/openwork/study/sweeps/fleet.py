"""Runs that differ in numbers alone, trained as one model in this process; the others one by one."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from openwork.study.fleet.execute import CannotStackError, execute_fleet
from openwork.study.fleet.groups import Waiting
from openwork.study.results.result import Result
from openwork.study.runs.claim import ClaimedError
from openwork.study.runs.run import Run
from openwork.study.sweeps.outcome import Outcome, ended
from openwork.study.sweeps.sweep import Options, attempt, completed_steps


class Fleets:
    """Trains the runs that it has been given, group by group: each group as one model, up to a width.

    Args:
        directory: The folder of run directories.
        options: How to execute the runs.
        width: How many runs to stack at most; None for as many as the memory holds.
        say: Called with a sentence for runs that cannot be stacked, which are trained one by one.
        progress: Called after each step, with the steps of the runs in training together.
    """

    def __init__(
        self,
        directory: Path,
        options: Options,
        width: int | None = None,
        *,
        say: Callable[[str], None] = lambda _: None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._directory, self._options, self._width = directory, options, width
        self._say, self._progress = say, progress
        self._waiting = waiting(directory)
        self._alone: deque[Run] = deque()
        self._failures: dict[str, int] = {}

    def slots(self) -> int:
        """As many as there are: only who knows all runs finds those that are alike."""
        return len(self._waiting) + len(self._alone) + 1

    def submit(self, run: Run, failures: int = 0) -> None:
        """Remembers the run."""
        self._waiting.add(run)
        self._failures[run.id] = failures

    def wait(self) -> list[tuple[Run, Outcome]]:
        """The runs of one fleet, after training them; or one run that fits none."""
        if self._alone:
            run = self._alone.popleft()
            failures = self._failures[run.id]
            return [(run, attempt(run, self._directory, self._options, self._progress, failures))]
        if not self._waiting:
            return []
        group = self._waiting.group(self._width)
        outcomes: dict[str, Outcome] = {}
        if len(group) > 1:
            try:
                outcomes = attempt_fleet(
                    group, self._directory, self._options, self._width, self._progress, self._failures
                )
            except CannotStackError as error:
                group = self._waiting.like(group[0])
                self._say(one_by_one(group, str(error)))
        if not outcomes:
            self._alone.extend(group)
        self._waiting.take(outcomes or [run.id for run in group])
        return [(run, outcomes[run.id]) for run in group if run.id in outcomes]


def waiting(directory: Path) -> Waiting:
    """Runs with directories in this folder that wait to be trained: none yet."""
    return Waiting(lambda run: completed_steps(directory / run.id))


def one_by_one(group: Sequence[Run], reason: str) -> str:
    """The sentence for runs that cannot be stacked."""
    return f"{len(group)} runs of {group[0].name} are trained one by one: {reason}"


def attempt_fleet(
    group: Sequence[Run],
    directory: Path,
    options: Options,
    width: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
    failures: Mapping[str, int] | None = None,
) -> dict[str, Outcome]:
    """Trains some of the runs as one model, and returns how each of these ended, by id; the others are for later calls.

    Args:
        group: Runs that can be trained together, as `Waiting.group` returns them.
        directory: The folder of run directories.
        options: How to execute the runs.
        width: How many runs to stack at most; None for as many as the memory holds.
        progress: As `execute_fleet` takes it.
        failures: As `execute_fleet` takes it; none of any run where nothing is said.

    Raises:
        CannotStackError: If the runs cannot be trained as one model.
        OSError: If the disk is full.
    """
    found = execute_fleet(
        group,
        directory,
        device=options.device,
        compile=options.compile,
        evaluations=options.evaluations,
        snapshots=options.snapshots,
        precision=options.precision,
        most=width,
        progress=progress,
        failures=failures or {},
    )
    return {id: _outcome(result) for id, result in found.items()}


def _outcome(found: Result | Exception) -> Outcome:
    if isinstance(found, Result):
        return ended(found)
    if isinstance(found, ClaimedError):
        return Outcome("claimed", reason=str(found))
    return Outcome("failed", reason=str(found))
