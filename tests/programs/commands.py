"""Runs `openwork`, `python -c` and `python -m`, each forked from this process, which has imported everything once.

A line of the input is an order as JSON, and a line of the output answers it. One with the folder, the arguments, the
environment and the two files to print to starts a process, and the answer is its number; "poll" and "wait" with a
number are answered by its exit code, or null.
"""

import importlib
import json
import os
import pkgutil
import runpy
import signal
import sys
import traceback
from typing import Any, NoReturn

import altair as alt  # noqa: F401  commands import these each when it needs them: seconds of each process
import sklearn.datasets  # noqa: F401
import torch._dynamo
import torch.distributed.checkpoint.state_dict
import torch.distributed.fsdp
import torch.nn.parallel  # noqa: F401  as above

import openwork.cli
import openwork.study
from openwork.cli import main

SECONDS = 240  # after which a process is killed


def started(order: dict[str, Any]) -> int:
    """The number of a process that does what the order says."""
    streams = [os.open(path, os.O_WRONLY | os.O_APPEND) for path in order["streams"]]
    child = os.fork()
    if child == 0:
        try:
            become(order, streams)
        finally:
            os._exit(1)
    for stream in streams:
        os.close(stream)
    return child


def become(order: dict[str, Any], streams: list[int]) -> NoReturn:
    """Turns this process into the command."""
    for descriptor, file in enumerate([os.open(os.devnull, os.O_RDONLY), *streams]):
        os.dup2(file, descriptor)
        os.close(file)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ |= order["environment"]
    sys.argv = order["arguments"]
    signal.alarm(SECONDS)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which tests in the background would ignore
    code = 0
    try:
        run()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Python would look through all that was imported, for a second


def run() -> None:
    """Runs what ``sys.argv`` says."""
    if sys.argv[0] == "openwork":
        main()
    elif sys.argv[0] == "-m":
        _, module, *arguments = sys.argv
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        _, code, *arguments = sys.argv
        sys.argv = ["-c", *arguments]
        sys.path.insert(0, "")
        exec(code, {"__name__": "__main__"})


def ended(child: int, options: int) -> int | None:
    """The exit code of a process, if it has ended."""
    found, status = os.waitpid(child, options)
    return os.waitstatus_to_exitcode(status) if found else None


if __name__ == "__main__":
    for package in (openwork.cli, openwork.study):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    for line in sys.stdin:
        order = json.loads(line)
        if "poll" in order:
            answer = ended(order["poll"], os.WNOHANG)
        else:
            answer = ended(order["wait"], 0) if "wait" in order else started(order)
        print(json.dumps(answer), flush=True)
