"""How an attempt to execute a run ended, and what its directory says of that."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from openwork.study.files import writing
from openwork.study.results.result import Result
from openwork.study.results.store import read_failure, read_result
from openwork.study.runs.claim import ClaimedError, claim
from openwork.study.runs.failure import failed_since, write_failure
from openwork.study.runs.run import Run

State = Literal["finished", "diverged", "failed", "claimed", "crashed"]


@dataclass(frozen=True)
class Outcome:
    """How an attempt to execute a run ended.

    Args:
        state: "claimed" means that another process is training the run, "crashed" that the process died in it.
        result: The result of a finished or diverged run, without layers.
        reason: One sentence for any other state.
    """

    state: State
    result: Result | None = None
    reason: str = ""


def known_outcome(folder: Path) -> Outcome | None:
    """How a run ended, as its directory says: finished, diverged or failed; None for a run that is not done.

    A run whose result cannot be read has failed: the reason says what to do.
    """
    try:
        if (folder / "result.json").exists():
            return ended(read_result(folder / "result.json", layers=False))
        failure = read_failure(folder)
    except ValueError as error:  # one damaged run does not stop the others
        return Outcome("failed", reason=str(error))
    return Outcome("failed", reason=failure["error"]) if failure else None


def ended(result: Result) -> Outcome:
    """The outcome of a run that has a result."""
    # A sweep remembers thousands of results, and layers would be nearly all of their memory.
    return Outcome(result.status, replace(result, layers=()))


def outcome_since(folder: Path, failures: int) -> Outcome | None:
    """How a run has ended in another process since its sweep looked; asked by who holds the claim of its directory.

    Args:
        folder: The run's directory.
        failures: How often it had failed then.
    """
    if (folder / "result.json").exists():
        return known_outcome(folder)
    reason = failed_since(folder, failures)
    return None if reason is None else Outcome("failed", reason=reason)


def failure(run: Run, directory: Path, reason: str, failures: int = 0) -> Outcome:
    """The outcome of a run that was never begun, or whose process died, after recording it.

    Args:
        run: The run.
        directory: The folder of run directories.
        reason: Why it has failed.
        failures: How often it had failed when its sweep began.

    Returns:
        The failure, what another process has left in the directory since, or that another one is training the run.
    """
    folder = directory / run.id
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with claim(folder):
            since = outcome_since(folder, failures)
            return since or Outcome("failed", reason=write_failure(run, folder, reason))
    except ClaimedError as error:
        return Outcome("claimed", reason=str(error))
