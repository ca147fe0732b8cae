"""How runs are executed as one model, in the directories that they would have alone."""

import gc
import resource
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from openwork.study.files import writing
from openwork.study.fleet.fleet import Fleet, Member
from openwork.study.fleet.memory import width
from openwork.study.results.result import Result
from openwork.study.results.store import read_result
from openwork.study.runs.claim import claim
from openwork.study.runs.described import refuse_changed, refuse_old
from openwork.study.runs.execute import begin, resume
from openwork.study.runs.precision import Precision, products
from openwork.study.runs.run import Run

_FILES = 256  # that a process needs besides those of its claims


class CannotStackError(ValueError):
    """Runs cannot be trained as one model."""


def execute_fleet(
    runs: Sequence[Run],
    directory: Path,
    *,
    device: str = "cpu",
    compile: bool = False,
    evaluations: int = 20,
    snapshots: int = 0,
    precision: Precision = "float32",
    most: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Result | Exception]:
    """The results of the runs by id, as `openwork.study.runs.execute.execute` gives them, trained as one model.

    Where the memory does not hold all of them, the last ones are left out, for a later call.

    Args:
        runs: Runs that are alike (`openwork.study.fleet.groups`) and have come to one step; their prerequisites are
            finished.
        directory: The folder of run directories.
        device: cpu, cuda or cuda:N.
        compile: Use torch.compile.
        evaluations: As for a run alone.
        snapshots: As for a run alone.
        precision: Of products on a GPU.
        most: How many runs to stack at most; None for as many as the memory holds.
        progress: Called after each step, with the steps of all runs together.

    Returns:
        The result of each run that ended, and why others could not begin: a ClaimedError, or what the run raised.

    Raises:
        CannotStackError: If the runs cannot be trained as one model.
        ValueError: If the device is too small for one run.
        WriteError: If the disk is full.
    """
    most = min(most or len(runs), _claims())
    while True:
        members: list[Member] = []
        with ExitStack() as claims, products(precision):
            found = _claim(runs, directory, torch.device(device), most, claims, members)
            if not members:
                return found
            try:
                fleet = Fleet(
                    members, evaluations=evaluations, snapshots=snapshots, compile=compile, precision=precision
                )
                fleet.train(progress)
            except OSError:
                raise
            except torch.OutOfMemoryError:
                if len(members) == 1:
                    raise
                most = len(members) // 2
            except Exception as error:  # perhaps one run's own, which it will raise alone
                raise CannotStackError(f"{type(error).__name__}: {error}") from error
            else:
                return found | {member.live.run.id: member.result for member in members if member.result}
        del members[:], fleet
        gc.collect()
        torch.cuda.empty_cache()


def _claim(
    runs: Sequence[Run], directory: Path, device: torch.device, most: int, claims: ExitStack, members: list[Member]
) -> dict[str, Result | Exception]:
    """Fills the ``members``; returns what those of the other runs ended with that came before."""
    found: dict[str, Result | Exception] = {}
    for run in runs:
        if len(members) == most:
            break
        try:
            member = _member(run, directory, device, claims)
        except OSError:
            raise
        except Exception as error:
            found[run.id] = error
            continue
        if isinstance(member, Result):
            found[run.id] = member
            continue
        if not members:
            most = min(most, width(member.live))
        members.append(member)
    return found


def _member(run: Run, directory: Path, device: torch.device, claims: ExitStack) -> Member | Result:
    """The run where its checkpoint is, its directory claimed; its result where another process was faster."""
    folder = directory / run.id
    refuse_old([folder])
    refuse_changed(run, folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    claims.enter_context(claim(folder))
    if (folder / "result.json").exists():
        return read_result(folder / "result.json")
    live = begin(run, directory, device, lambda other: read_result(directory / other.id / "result.json"))
    state = resume(live, folder)
    if state is None:
        return Member(live, folder)
    rows = state["metrics"]
    return Member(live, folder, optimizer=state["optimizer"], rows=rows, seconds=rows[-1]["seconds"])


def _claims() -> int:
    """How many directories this process can claim at a time, each with an open file, after asking for as many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(hard - _FILES, 1) if hard != resource.RLIM_INFINITY else 1_000_000
