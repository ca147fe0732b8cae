"""Starts the separate processes that tests run: the programs of `tests/programs`, and the command `openwork`."""

import atexit
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
OPENWORK = str(Path(sys.executable).with_name("openwork"))


def start(program: str, *arguments: object, cwd: Path | None = None) -> subprocess.Popen[str]:
    """A process that runs ``tests/programs/<program>.py``."""
    command = [sys.executable, "-m", f"tests.programs.{program}", *map(str, arguments)]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=cwd, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def output_of(*processes: subprocess.Popen[str], timeout: float = 240) -> list[str]:
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


def run_two(program: str, folder: Path, *arguments: object) -> list[str]:
    """What rank 0 and rank 1 printed of a program that begins with `tests.programs.group.group`."""
    return output_of(*(start(program, rank, folder, *arguments) for rank in range(2)))


@cache
def _commands() -> subprocess.Popen[str]:
    """`tests/programs/commands.py`, started once and ended with this process."""
    process = start("commands")
    atexit.register(process.communicate)  # which closes its input
    return process


def openwork(folder: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """What the command did in the folder; its exit code must be ``code``, and no error a traceback."""
    return _forked(folder, "openwork", *arguments, code=code)


def python(folder: Path, program: str, *arguments: object) -> str:
    """What the program printed, run in the folder by a Python that has imported torch and openwork before."""
    return _forked(folder, "-c", program, *map(str, arguments)).stdout


def _forked(folder: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    process = _commands()
    assert process.stdin
    assert process.stdout
    order = {"folder": str(folder), "arguments": arguments, "environment": dict(os.environ)}
    print(json.dumps(order), file=process.stdin, flush=True)
    answer = json.loads(process.stdout.readline())
    assert answer["code"] == code, answer["printed"] + answer["errors"]
    assert "Traceback" not in answer["errors"]
    return subprocess.CompletedProcess(arguments, code, answer["printed"], answer["errors"])
