"""Standard output for JSON alone: all else that is printed meanwhile goes to standard error."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO


@contextmanager
def output_alone() -> Iterator[TextIO]:
    """Standard output, of which nobody else knows: what prints, also a program that is started, prints elsewhere."""
    printed = sys.stdout
    if not _is_standard(printed, 1) or not _is_standard(sys.stderr, 2):  # closed, or other Python code reads it
        with redirect_stdout(sys.stderr):
            yield printed
        return
    printed.flush()
    with open(os.dup(1), "w", encoding=printed.encoding, errors=printed.errors) as output, redirect_stdout(sys.stderr):
        os.dup2(2, 1)  # programs inherit the number, and know nothing of sys.stdout
        try:
            yield output
        finally:
            try:
                printed.flush()  # what was given to it by who had kept it, such as a logger
            finally:
                os.dup2(output.fileno(), 1)


def _is_standard(stream: TextIO, descriptor: int) -> bool:
    try:
        return stream.fileno() == descriptor
    except (OSError, ValueError):
        return False
