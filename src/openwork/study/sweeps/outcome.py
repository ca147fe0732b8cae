"""How an attempt to execute a run ended, and what its directory says of that."""

import json
import socket
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from openwork.study.files import write_text, writing
from openwork.study.results.result import FORMAT, Result
from openwork.study.results.store import read_failure, read_result
from openwork.study.runs.described import write_description
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


def failure(run: Run, directory: Path, reason: str, details: str = "") -> Outcome:
    """The outcome of a failed attempt, after recording it; also of a run that was never begun."""
    folder = directory / run.id
    try:
        before = read_failure(folder)
    except ValueError:  # it is written again
        before = None
    failure = {
        "format": FORMAT,
        "error": reason,
        "traceback": details,
        "attempt": before["attempt"] + 1 if before else 1,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "run.json").exists():
        write_description(run, folder)
    write_text(folder / "failed.json", json.dumps(failure, indent=2) + "\n")
    return Outcome("failed", reason=reason)
