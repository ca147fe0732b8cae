"""The outcome of a check: passed, refused by the library itself, failed, or without meaning for the library."""

import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .cases import NotApplicableError
from .libraries import Library, source_of
from .training import ClaimError

Status = Literal["pass", "refused", "fail", "n/a"]
SHORTEST, LONGEST = 60, 200  # characters of an error's first line


@dataclass(frozen=True)
class Outcome:
    """A cell: its status, and the reason for anything but a pass."""

    status: Status
    text: str = ""


def outcome(library: type[Library], check: Callable[[type[Library]], None]) -> Outcome:
    """Runs a check. A refusal is an error of the kinds below that the library's own code raises with a reason."""
    try:
        check(library)
    except NotApplicableError as reason:
        return Outcome("n/a", first_line(str(reason)))
    except ClaimError as claim:
        return Outcome("fail", first_line(str(claim)))
    except Exception as error:  # whatever a library does is a result
        text = first_line(f"{type(error).__name__}: {error}")
        return Outcome("refused" if _deliberate(error, library) else "fail", text)
    return Outcome("pass")


def _deliberate(error: Exception, library: type[Library]) -> bool:
    kinds = ValueError | TypeError | NotImplementedError
    own = type(error).__module__.partition(".")[0] == library.package  # one of the library's exception classes
    if not str(error) or not (isinstance(error, kinds) or own):
        return False
    last = traceback.extract_tb(error.__traceback__)[-1]
    raised = (last.line or "").lstrip().startswith("raise")
    return raised and Path(last.filename).is_relative_to(source_of(library.package))


def first_line(text: str) -> str:
    """The first line of a message, cut at a word, without this machine's folders, addresses and colours."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = lines[0] if lines else text
    if len(line) < SHORTEST and len(lines) > 1:
        line = f"{line} {lines[1]}"  # "Error(s) in loading state_dict for Net:" says nothing yet
    line = re.sub(r"\x1b\[[0-9;]*m", "", line)
    line = re.sub(r"(?:/[\w.@+-]+)+/([\w.@+-]+)", r"\1", line)
    line = re.sub(r"\b0x[0-9a-f]{6,}\b", "0x…", line)
    if len(line) > LONGEST:
        line = line[:LONGEST].rsplit(" ", 1)[0] + " …"
    return line
