"""A variant in a process of its own, which compiles at once and is timed when its turn comes.

Each has an allocator of its own, so that the peak of its memory is its own. The parent writes "measure" on a line; the
process answers each with a line of JSON, after a first one when it has compiled.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from .operations import Operations
from .timed import Counts, Series, TimedStep, patiently, set_flags

OPERATIONS = "operations"
"""In the place of a model: what is no step."""


class VariantError(RuntimeError):
    """A variant that does not run; the message is its error in one line."""


class Work(Protocol):
    """What a process serves."""

    def compile(self) -> None:
        """Does all that is needed once."""

    def measure(self, counts: Counts) -> Series:
        """Returns the numbers."""

    def rest(self) -> None:
        """Gives memory back until the next measurement."""


class Served:
    """The process, as its parent sees it.

    Args:
        model: Of `MODELS`, or `OPERATIONS`.
        variant: Of `VARIANTS`.
        arguments: Of the parent's command line, which the process reads as well.
        threads: Processes in which torch's compiler works for it.
    """

    def __init__(self, model: str, variant: str, arguments: Sequence[str], threads: int) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  read when the process fails
        self.process = subprocess.Popen(
            [sys.executable, sys.argv[0], *arguments, "--serve", model, variant],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={"TORCHINDUCTOR_COMPILE_THREADS": str(threads), "OMP_NUM_THREADS": "1", **os.environ},
        )

    def compiled(self) -> float:
        """Waits until it has compiled; returns the seconds that took.

        Raises:
            VariantError: If it does not run, or was ended.
        """
        return float(self._answer()["seconds"])

    def measure(self) -> Series:
        """The numbers.

        Raises:
            VariantError: If it does not run, or was ended.
        """
        assert self.process.stdin
        try:
            self.process.stdin.write("measure\n")
            self.process.stdin.flush()
        except OSError as error:
            raise VariantError(str(error)) from None
        return {(name, unit, reference): values for name, unit, reference, values in self._answer()["series"]}

    def log(self) -> str:
        """What it has written to its errors."""
        self.errors.seek(0)
        return self.errors.read()

    def end(self) -> None:
        """Ends the process and waits for it, so that its memory is free."""
        self.process.kill()
        self.process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise VariantError((self.log().strip().splitlines() or ["it ended without a word"])[-1])
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise VariantError(answer["error"])
        return answer


def serve(
    model: str, variant: str, device: torch.device, counts: Counts, *, small: bool, backend: str, flags: Sequence[str]
) -> None:
    """Is the process: compiles, and then measures for each line of the input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    began = time.monotonic()
    try:
        set_flags(flags)
        work: Work = (
            patiently(lambda: Operations(device, small=small, backend=backend))
            if model == OPERATIONS
            else TimedStep(model, variant, device, small=small, backend=backend)
        )
        work.compile()
        answer(seconds=time.monotonic() - began)
        for _ in sys.stdin:
            series = work.measure(counts)
            work.rest()
            answer(series=[[*key, values] for key, values in series.items()])
    except Exception as error:  # a variant that does not run is a result
        traceback.print_exc()
        answer(error=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
