"""Runs that differ in numbers alone, trained as one model in this process; the others one by one."""

import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path

from openwork.study.fleet.execute import CannotStackError, execute_fleet
from openwork.study.fleet.groups import groups
from openwork.study.results.result import Result
from openwork.study.runs.claim import ClaimedError
from openwork.study.runs.run import Run
from openwork.study.sweeps.sweep import Options, Outcome, attempt, completed_steps, ended, failure


class Fleets:
    """Trains the runs that it has been given, group by group: each group as one model, up to a width.

    Args:
        directory: The folder of run directories.
        options: How to execute the runs.
        width: How many runs to stack at most; None for as many as the memory holds.
        say: Called with a sentence for runs that cannot be stacked, which are trained one by one.
        progress: Called after each step, with its number.
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
        self._submitted: list[Run] = []
        self._alone: deque[Run] = deque()

    def slots(self) -> int:
        """As many as there are: only who knows all runs finds those that are alike."""
        return len(self._submitted) + len(self._alone) + 1

    def submit(self, run: Run) -> None:
        """Remembers the run."""
        self._submitted.append(run)

    def wait(self) -> list[tuple[Run, Outcome]]:
        """The runs of one fleet, after training them; or one run that fits none."""
        if self._alone:
            run = self._alone.popleft()
            return [(run, attempt(run, self._directory, self._options, self._progress))]
        if not self._submitted:
            return []
        group = groups(self._submitted, lambda run: completed_steps(self._directory / run.id))[0]
        outcomes = self._fleet(group) if len(group) > 1 else {}
        if not outcomes:
            self._alone.extend(group)
        settled = outcomes or {run.id for run in group}
        self._submitted = [run for run in self._submitted if run.id not in settled]
        return [(run, outcomes[run.id]) for run in group if run.id in outcomes]

    def _fleet(self, group: list[Run]) -> dict[str, Outcome]:
        """How those of the runs ended that one fleet holds, by id; nothing where they cannot be stacked."""
        options = self._options
        try:
            found = execute_fleet(
                group,
                self._directory,
                device=options.device,
                compile=options.compile,
                evaluations=options.evaluations,
                snapshots=options.snapshots,
                most=self._width,
                progress=self._progress,
            )
        except CannotStackError as error:
            self._say(f"{len(group)} runs of {group[0].name} are trained one by one: {error}")
            return {}
        return {id: _outcome(self._directory / id, result) for id, result in found.items()}


def _outcome(folder: Path, found: Result | Exception) -> Outcome:
    if isinstance(found, Result):
        return ended(found)
    if isinstance(found, ClaimedError):
        return Outcome("claimed", reason=str(found))
    return failure(folder, f"{type(found).__name__}: {found}", "".join(traceback.format_exception(found)))
