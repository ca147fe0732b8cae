"""Runs `openwork`, or `python -c`, again and again, each forked from this process, which has imported everything once.

A line of the input is a command as JSON: folder, arguments and environment. The line of the output that answers it has
the exit code and what the command printed, to its output and to its errors.
"""

import importlib
import json
import os
import pkgutil
import signal
import sys
import traceback
from tempfile import TemporaryFile
from typing import Any, BinaryIO, NoReturn

import altair as alt  # noqa: F401  commands import these each when it needs them: seconds of each process
import sklearn.datasets  # noqa: F401
import torch._dynamo  # noqa: F401

import openwork.cli
import openwork.study
from openwork.cli import main

SECONDS = 120  # after which a command is killed


def become(order: dict[str, Any], printed: BinaryIO, errors: BinaryIO) -> NoReturn:
    """Turns this process into the command."""
    with open(os.devnull, "rb") as nothing:
        for descriptor, file in enumerate((nothing, printed, errors)):
            os.dup2(file.fileno(), descriptor)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ |= order["environment"]
    sys.argv = order["arguments"]
    signal.alarm(SECONDS)
    code = 0
    try:
        run()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except Exception:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Python would look through all that was imported, for a second


def run() -> None:
    """Runs what ``sys.argv`` says."""
    if sys.argv[0] == "openwork":
        main()
    else:
        _, code, *arguments = sys.argv
        sys.argv = ["-c", *arguments]
        sys.path.insert(0, "")
        exec(code, {"__name__": "__main__"})


if __name__ == "__main__":
    for package in (openwork.cli, openwork.study):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    for line in sys.stdin:
        with TemporaryFile() as printed, TemporaryFile() as errors:
            child = os.fork()
            if child == 0:
                become(json.loads(line), printed, errors)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            printed.seek(0)
            errors.seek(0)
            answer = {"code": code, "printed": printed.read().decode(), "errors": errors.read().decode()}
        print(json.dumps(answer), flush=True)
