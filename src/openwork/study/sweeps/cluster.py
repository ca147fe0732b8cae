"""Runs on Ray: the CPUs and GPUs of this machine, or of a cluster whose machines share the folder of the runs."""

import logging
import math
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from openwork.study.fleet.execute import CannotStackError
from openwork.study.runs.config import from_plain, packages, to_plain
from openwork.study.runs.run import Run
from openwork.study.sweeps.fleet import attempt_fleet, one_by_one, waiting
from openwork.study.sweeps.outcome import Outcome
from openwork.study.sweeps.sweep import Options, attempt

try:
    import ray
except ImportError as error:
    raise ImportError('runs on Ray need ray: pip install "openwork[cluster]"') from error


class Ray:
    """Executes runs as Ray tasks; a context manager, which stops at its end what still runs.

    Args:
        address: "local" starts Ray on this machine and stops it at the end; "auto" joins the cluster that runs here;
            anything else is the address of a cluster.
        directory: The folder of run directories, which all machines share.
        options: How to execute the runs.
        cpus: The CPUs of each run.
        gpus: The GPUs of each run; a fraction lets several runs share one.
        fleet: How many runs to train as one model at most, which then have these CPUs and GPUs together; 0 for as many
            as the memory holds, None trains each alone.
        say: Called with a sentence for runs that cannot be stacked, which are trained one by one.
    """

    def __init__(
        self,
        address: str,
        directory: Path,
        options: Options,
        *,
        cpus: float = 1,
        gpus: float = 0,
        fleet: int | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._address, self._directory, self._options = address, directory.resolve(), options
        self._cpus, self._gpus = cpus, gpus
        self._fleet, self._say = fleet, say
        self._waiting = waiting(self._directory)  # for a fleet
        self._tasks: dict[Any, list[Run]] = {}
        self._failures: dict[str, int] = {}

    def __enter__(self) -> "Ray":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            _check_reachable(self._address)
            ray.init(self._address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"cannot use Ray at {self._address!r}: {str(error).splitlines()[0]}") from error
        if self._address == "local" and not self._parallel():
            ray.shutdown()
            raise ValueError(f"a run needs {self._cpus:g} CPUs and {self._gpus:g} GPUs, and this machine has too few")
        # The sweep decides about retries. A process that has used a GPU ends with its run: an error may have broken
        # the device for it, and other runs need the memory that it keeps.
        task = ray.remote(num_cpus=self._cpus, num_gpus=self._gpus, max_retries=0, max_calls=1 if self._gpus else 0)
        self._task = task(_attempt)
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._tasks:
            ray.cancel(task, force=True)
        ray.shutdown()

    def slots(self) -> int:
        """Twice as many as fit, so that no worker waits for its next run; more when machines join.

        All runs with fleets: only who knows them all finds those that are alike.
        """
        if self._fleet is None:
            return 2 * max(self._parallel(), 1)
        return len(self._waiting) + sum(map(len, self._tasks.values())) + 1

    def submit(self, run: Run, failures: int = 0) -> None:
        """Hands the run to Ray, or keeps it for a fleet."""
        self._failures[run.id] = failures
        if self._fleet is None:
            self._start([run])
        else:
            self._waiting.add(run)

    def wait(self) -> list[tuple[Run, Outcome]]:
        """The runs that have ended."""
        self._start_fleets()
        if not self._tasks:
            return []
        ray.wait([*self._tasks], num_returns=1, timeout=1)
        ended, _ = ray.wait([*self._tasks], num_returns=len(self._tasks), timeout=0)
        return [pair for task in ended for pair in self._outcomes(task)]

    def _start(self, runs: list[Run]) -> None:
        # With the fields that have their defaults, so that another default on the worker makes another id there.
        plain = {run.id: to_plain(run, defaults=True) for run in runs}
        threads = max(int(self._cpus), 1)
        failures = {run.id: self._failures[run.id] for run in runs}
        settings = self._directory, self._options, threads, os.getcwd(), self._fleet or None, failures
        self._tasks[self._task.remote(plain, *settings)] = runs

    def _start_fleets(self) -> None:
        """Gives each idle device a fleet of the runs that wait."""
        parallel = max(self._parallel(), 1)
        while self._waiting and len(self._tasks) < parallel:
            idle = parallel - len(self._tasks)
            group = self._waiting.group(self._fleet * idle if self._fleet else None)
            some = group[: math.ceil(len(group) / idle)]  # so that no device is idle
            self._waiting.take([run.id for run in some])
            self._start(some)

    def _outcomes(self, task: Any) -> list[tuple[Run, Outcome]]:
        """How the runs of an ended task ended; those that it has left wait again."""
        runs = self._tasks.pop(task)
        found = _answer(task)
        if isinstance(found, Outcome):  # of the process
            if len(runs) == 1:
                return [(runs[0], found)]
            found = found.reason  # one of them kills it, perhaps: no reason to give up the others
        if isinstance(found, str):
            self._say(one_by_one(runs, found))
            for run in runs:
                self._start([run])
            return []
        for run in runs:
            if run.id not in found:
                self._waiting.add(run)
        return [(run, found[run.id]) for run in runs if run.id in found]

    def _parallel(self) -> int:
        there = ray.cluster_resources()
        needed = {"CPU": self._cpus, "GPU": self._gpus}
        return int(min(there.get(kind, 0) / count for kind, count in needed.items() if count))


def _check_reachable(address: str) -> None:
    """Raises OSError where nobody answers at ``host:port``, as Ray would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.rpartition("/")[2], int(port)), timeout=10).close()


def _answer(task: Any) -> dict[str, Outcome] | Outcome | str:
    """What the worker returned; where it died, the outcome of that."""
    try:
        answer: dict[str, Outcome] | str = ray.get(task)
    except ray.exceptions.RayTaskError as error:  # not of the run, which `attempt` catches
        raise (error.cause if isinstance(error.cause, Exception) else error) from None
    except ray.exceptions.LocalRayletDiedError:
        raise ConnectionError("Ray has died; finished runs are kept, and the same command goes on from there") from None
    except ray.exceptions.RayError as error:
        return Outcome("crashed", reason=f"{type(error).__name__}: {str(error).splitlines()[0]}")
    return answer


def _attempt(
    plain: dict[str, Any],
    directory: Path,
    options: Options,
    threads: int,
    folder: str,
    width: int | None,
    failures: dict[str, int],
) -> dict[str, Outcome] | str:
    """`attempt` in a worker, for one run; `attempt_fleet` for several, the reason where they cannot be stacked."""
    runs = _runs(plain, threads, folder)
    if len(runs) == 1:
        return {runs[0].id: attempt(runs[0], directory, options, failures=failures[runs[0].id])}
    try:
        return attempt_fleet(runs, directory, options, width, failures=failures)
    except CannotStackError as error:
        return str(error)


def _runs(plain: dict[str, Any], threads: int, folder: str) -> list[Run]:
    """The runs in a worker. They come as JSON, as in run.json: their ids say whether the code here is the same."""
    if folder not in sys.path:
        sys.path.insert(0, folder)  # the user's own experiments, as in `openwork.cli.main`
    torch.set_num_threads(threads)
    runs = []
    for id, each in plain.items():
        run = from_plain(each, packages(each))
        if run.id != id:
            raise ValueError(f"run {id} is run {run.id} on {os.uname().nodename}: is the code there another?")
        runs.append(run)
    return runs
