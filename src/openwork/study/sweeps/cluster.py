"""Runs on Ray: the CPUs and GPUs of this machine, or of a cluster whose machines share the folder of the runs."""

import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any

import torch

from openwork.study.runs.config import from_plain, packages, to_plain
from openwork.study.runs.run import Run
from openwork.study.sweeps.sweep import Options, Outcome, attempt

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
    """

    def __init__(self, address: str, directory: Path, options: Options, *, cpus: float = 1, gpus: float = 0) -> None:
        self._address, self._directory, self._options = address, directory.resolve(), options
        self._cpus, self._gpus = cpus, gpus
        self._tasks: dict[Any, Run] = {}

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
        """Twice as many as fit, so that no worker waits for its next run; more when machines join."""
        return 2 * max(self._parallel(), 1)

    def submit(self, run: Run) -> None:
        """Hands the run to Ray."""
        threads = max(int(self._cpus), 1)
        plain = to_plain(run, defaults=True)  # so that another default on the worker makes another id there
        task = self._task.remote(plain, run.id, self._directory, self._options, threads, os.getcwd())
        self._tasks[task] = run

    def wait(self) -> list[tuple[Run, Outcome]]:
        """The runs that have ended."""
        if not self._tasks:
            return []
        ray.wait([*self._tasks], num_returns=1, timeout=1)
        ended, _ = ray.wait([*self._tasks], num_returns=len(self._tasks), timeout=0)
        return [(self._tasks.pop(task), _outcome(task)) for task in ended]

    def _parallel(self) -> int:
        there = ray.cluster_resources()
        needed = {"CPU": self._cpus, "GPU": self._gpus}
        return int(min(there.get(kind, 0) / count for kind, count in needed.items() if count))


def _check_reachable(address: str) -> None:
    """Raises OSError where nobody answers at ``host:port``, as Ray would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.rpartition("/")[2], int(port)), timeout=10).close()


def _outcome(task: Any) -> Outcome:
    try:
        outcome: Outcome = ray.get(task)
    except ray.exceptions.RayTaskError as error:  # not of the run, which `attempt` catches
        raise (error.cause if isinstance(error.cause, Exception) else error) from None
    except ray.exceptions.LocalRayletDiedError:
        raise ConnectionError("Ray has died; finished runs are kept, and the same command goes on from there") from None
    except ray.exceptions.RayError as error:
        return Outcome("crashed", reason=f"{type(error).__name__}: {str(error).splitlines()[0]}")
    return outcome


def _attempt(plain: dict[str, Any], id: str, directory: Path, options: Options, threads: int, folder: str) -> Outcome:
    """`attempt` in a worker. The run comes as JSON, as in run.json: its id says whether the code here is the same."""
    if folder not in sys.path:
        sys.path.insert(0, folder)  # the user's own experiments, as in `openwork.cli.main`
    torch.set_num_threads(threads)
    run = from_plain(plain, packages(plain))
    if run.id != id:
        raise ValueError(f"run {id} is run {run.id} on {os.uname().nodename}: is the code there another?")
    return attempt(run, directory, options)
