"""Starts the separate processes that tests run: the programs of `tests/programs`, and the command `openwork`.

Most are forked from a process that has imported everything once: `tests/programs/commands.py`.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Self

ROOT = Path(__file__).parents[1]
OPENWORK = str(Path(sys.executable).with_name("openwork"))


class Forked:
    """A process that `tests/programs/commands.py` has forked, with what tests use of `subprocess.Popen`."""

    def __init__(self, folder: Path | None, *arguments: str) -> None:
        self.returncode: int | None = None
        self.errors = TemporaryFile()  # noqa: SIM115  communicate closes both
        reading, writing = os.pipe()
        self.stdout = open(reading, encoding="utf-8", newline="")  # noqa: SIM115
        here = f"/proc/{os.getpid()}/fd"  # where the other process opens what this one has open
        order = {
            "folder": str(folder or Path.cwd()),
            "arguments": arguments,
            "environment": dict(os.environ),
            "streams": [f"{here}/{writing}", f"{here}/{self.errors.fileno()}"],
        }
        self.pid = _asked(order)
        os.close(writing)

    def poll(self) -> int | None:
        """Its exit code, where it has ended."""
        if self.returncode is None:
            self.returncode = _asked({"poll": self.pid})
        return self.returncode

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        if self.returncode is None:
            self.returncode = _asked({"wait": self.pid})
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends a signal, if it has not ended; its number is no other's before it was waited for."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills it."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it printed, to its output and to its errors, once it has ended, or after 240 s, whatever it is told."""
        if not self.stdout.closed:
            self.printed = self.stdout.read()
            self.stdout.close()
            self.wait()
            self.errors.seek(0)
            self.complained = self.errors.read().decode()
            self.errors.close()
        return self.printed, self.complained

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        self.stdout.close()
        self.errors.close()


Process = Forked | subprocess.Popen[str]


def start(program: str, *arguments: object, cwd: Path | None = None) -> Forked:
    """A process that runs ``tests/programs/<program>.py`` and has imported torch and openwork before."""
    return Forked(cwd, "-m", f"tests.programs.{program}", *map(str, arguments))


def start_afresh(program: str, *arguments: object, cwd: Path | None = None) -> subprocess.Popen[str]:
    """A new Python that runs ``tests/programs/<program>.py``: for memory, imports and devices of its own."""
    command = [sys.executable, "-m", f"tests.programs.{program}", *map(str, arguments)]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=cwd, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def output_of(*processes: Process, timeout: float = 240) -> list[str]:
    """What each of the processes printed; all must end well."""
    try:
        answers = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (printed, errors) in zip(processes, answers, strict=True):
        assert process.returncode == 0, printed + errors[-3000:]
    return [printed for printed, _ in answers]


def run(program: str, *arguments: object, cwd: Path | None = None) -> str:
    """What ``tests/programs/<program>.py`` printed."""
    return output_of(start(program, *arguments, cwd=cwd))[0]


def run_afresh(program: str, *arguments: object, cwd: Path | None = None) -> str:
    """What ``tests/programs/<program>.py`` printed in a new Python."""
    return output_of(start_afresh(program, *arguments, cwd=cwd))[0]


def run_two(program: str, folder: Path, *arguments: object) -> list[str]:
    """What rank 0 and rank 1 printed of a program that begins with `tests.programs.group.group`."""
    return output_of(*(start(program, rank, folder, *arguments) for rank in range(2)))


def start_openwork(folder: Path, *arguments: str) -> Forked:
    """The command, in the folder."""
    return Forked(folder, "openwork", *arguments)


def openwork(folder: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """What the command did in the folder; its exit code must be ``code``, and no error a traceback."""
    return _completed(start_openwork(folder, *arguments), code)


def start_python(folder: Path, program: str, *arguments: object) -> Forked:
    """The program, run in the folder by a Python that has imported torch and openwork before."""
    return Forked(folder, "-c", program, *map(str, arguments))


def python(folder: Path, program: str, *arguments: object) -> str:
    """What the program printed."""
    return _completed(start_python(folder, program, *arguments), 0).stdout


def _completed(process: Forked, code: int) -> subprocess.CompletedProcess[str]:
    printed, errors = process.communicate()
    assert process.returncode == code, printed + errors
    assert "Traceback" not in errors
    return subprocess.CompletedProcess([], code, printed, errors)


@cache
def _commands() -> subprocess.Popen[str]:
    """`tests/programs/commands.py`, started once and ended with this process."""
    process = start_afresh("commands")
    atexit.register(process.communicate)  # which closes its input
    return process


def _asked(order: dict[str, Any]) -> Any:
    """What `tests/programs/commands.py` answers."""
    process = _commands()
    assert process.stdin
    assert process.stdout
    print(json.dumps(order), file=process.stdin, flush=True)
    return json.loads(process.stdout.readline())
