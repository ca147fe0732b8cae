"""The failure of a run in its directory, failed.json: written, and read once more, by who holds the directory's claim.

So no two processes write there at once, and a run that failed in one is not tried again by the others.
"""

import json
import socket
import traceback
from datetime import UTC, datetime
from pathlib import Path

from openwork.study.files import write_text
from openwork.study.results.result import FORMAT
from openwork.study.results.store import read_failure
from openwork.study.runs.described import write_description
from openwork.study.runs.run import Run


class FailedError(ValueError):
    """The run has failed in another process since the caller looked."""


def count_failures(folder: Path) -> int:
    """How often the run has failed; 0 where its failed.json is damaged."""
    try:
        found = read_failure(folder)
    except ValueError:  # it is written again
        return 0
    attempts: int = found["attempt"] if found else 0
    return attempts


def failed_since(folder: Path, failures: int) -> str | None:
    """Why the run has failed once more than so often; None if it has not, or its failed.json is damaged."""
    try:
        found = read_failure(folder)
    except ValueError:
        return None
    return found["error"] if found and found["attempt"] > failures else None


def write_failure(run: Run, folder: Path, failed: Exception | str) -> str:
    """Writes down that the run has failed, in a directory that this process has claimed; returns the reason.

    Args:
        run: The run.
        folder: Its directory.
        failed: What it raised, or the reason for a run that was never begun, or whose process died.
    """
    reason, details = failed, ""
    if isinstance(failed, Exception):
        reason, details = f"{type(failed).__name__}: {failed}", "".join(traceback.format_exception(failed))
    failure = {
        "format": FORMAT,
        "error": str(reason),
        "traceback": details,
        "attempt": count_failures(folder) + 1,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
    }
    if not (folder / "run.json").exists():
        write_description(run, folder)
    write_text(folder / "failed.json", json.dumps(failure, indent=2) + "\n")
    return str(reason)
