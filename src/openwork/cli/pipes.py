"""Output that nobody reads any more, as after ``| head -1``: the command ends quietly, as the shell's own do."""

import os
import select

from rich.console import Console

NOBODY_READS = 141
"""The exit code of a program that SIGPIPE ends: 128 + 13. Python ignores the signal, for the sake of sockets."""


def broken_pipe(stopped: BaseException) -> BrokenPipeError | None:
    """The error of a pipe that is no more, as it is or as rich and typer raise SystemExit(1) for it."""
    error = stopped.__context__ if isinstance(stopped, SystemExit) else stopped
    return error if isinstance(error, BrokenPipeError) else None


def nobody_reads(stopped: BaseException) -> bool:
    """Whether the pipe is that of standard output or error, rather than one to another program; they are silenced then.

    Args:
        stopped: What `broken_pipe` knows.
    """
    closed = [number for number in (1, 2) if _is_closed(number)]
    for number in closed:  # or Python would complain of what it cannot write when it exits
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
    return bool(closed) or _is_of_console(stopped)


def _is_closed(number: int) -> bool:
    if not hasattr(select, "poll"):  # Windows, where nothing tells
        return True
    poll = select.poll()
    poll.register(number, 0)
    return bool(poll.poll(0))  # without events to wait for, only errors are told


def _is_of_console(stopped: BaseException) -> bool:
    """Whether rich raised it, which silences the output itself."""
    last = stopped.__traceback__
    while last and last.tb_next:
        last = last.tb_next
    return last is not None and last.tb_frame.f_code is Console.on_broken_pipe.__code__
