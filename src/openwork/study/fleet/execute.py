"""How runs are executed as one model, in the directories that they would have alone."""

import gc
import os
import resource
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from openwork.study.exits import exits_are_errors
from openwork.study.files import no_space, writing
from openwork.study.fleet.fleet import Fleet
from openwork.study.fleet.member import Member
from openwork.study.fleet.memory import no_memory, width
from openwork.study.fleet.trial import Trial
from openwork.study.fleet.writers import WRITERS, Forks, Threads
from openwork.study.results.history import snapshot_path, write_snapshot
from openwork.study.results.result import Result
from openwork.study.results.store import read_result
from openwork.study.runs.claim import ClaimedError, claim
from openwork.study.runs.described import refuse_changed, refuse_old, write_description
from openwork.study.runs.execute import begin, resume
from openwork.study.runs.failure import FailedError, failed_since, write_failure
from openwork.study.runs.live import Live
from openwork.study.runs.precision import Precision, products
from openwork.study.runs.run import Run

_AHEAD = 16  # runs whose directories are opened while a model is made: most of that time is the disk's
_FILES = 256  # that a process may open besides those of its claims; half of all where there are fewer
_WRITTEN = 3 * WRITERS  # that the writers of results have open at once


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
    failures: Mapping[str, int] | None = None,
) -> dict[str, Result | Exception]:
    """The results of the runs by id, as `openwork.study.runs.execute.execute` gives them, trained as one model.

    Where the memory does not hold all of them, the last ones are left out, for a later call; so are those that have
    come to another step than the first one.

    Args:
        runs: Runs that are alike (`openwork.study.fleet.groups`); their prerequisites are finished.
        directory: The folder of run directories.
        device: cpu, cuda or cuda:N.
        compile: Use torch.compile.
        evaluations: As for a run alone.
        snapshots: As for a run alone.
        precision: Of products on a GPU.
        most: How many runs to stack at most; None for as many as the memory holds.
        progress: Called after each step, with the steps of all runs together.
        failures: For a sweep, how often each run had failed when that began, 0 for one that is not there. A run that
            has failed since, in another process, is left alone, and one that fails here is recorded.

    Returns:
        The result of each run that ended, and why others could not begin: a ClaimedError, or what the run raised; for a
        sweep a FailedError instead of that, whose text is the reason.

    Raises:
        CannotStackError: If the runs cannot be trained as one model, or the device is too small for one.
        WriteError: If the disk is full.
    """
    wanted, most = most, min(most or len(runs), _claims())
    while True:
        members: list[Member] = []
        fleet: Fleet | None = None
        trial: Trial | None = None
        with ExitStack() as claims, products(precision):
            begun = partial(_member, directory=directory, device=torch.device(device), initial=snapshots > 0)
            with _unwatched(claims):
                found = _claim(runs, directory, begun, most, wanted, claims, members, failures)
            if not members:
                return found
            try:
                with exits_are_errors():
                    trial = _trial(members[-1].live.run, directory, torch.device(device)) if len(members) > 1 else None
                    fleet = Fleet(
                        members,
                        evaluations=evaluations,
                        snapshots=snapshots,
                        compile=compile,
                        precision=precision,
                        trial=trial,
                    )
                    fleet.train(progress)
            except Exception as error:
                if isinstance(error, OSError) and no_space(error):
                    raise
                if not no_memory(error) or len(members) == 1:  # perhaps one run's own, which it will raise alone
                    raise _cannot_stack(error) from error
                most = len(members) // 2
            else:
                return found | {member.live.run.id: member.result for member in members if member.result}
        del members[:]
        fleet = trial = None
        gc.collect()
        torch.cuda.empty_cache()


def _claim(
    runs: Sequence[Run],
    directory: Path,
    begun: Callable[[Run], Member],
    most: int,
    wanted: int | None,
    claims: ExitStack,
    members: list[Member],
    failures: Mapping[str, int] | None,
) -> dict[str, Result | Exception]:
    """Fills the ``members``; returns what those of the other runs ended with that came before."""
    found: dict[str, Result | Exception] = {}
    waiting, coming = deque(runs), deque[tuple[Run, Future[Result | None], ExitStack]]()
    with ExitStack() as opened, ThreadPoolExecutor(WRITERS) as pool, ExitStack() as unopened:
        unopened.callback(lambda: [future.cancel() for _, future, _ in coming])  # those that have not begun at the end
        while len(members) < most and (waiting or coming):
            # As many as will be trained, unless the memory ends before. The first one says how many that are.
            while waiting and len(coming) < (min(_AHEAD, most - len(members)) if members else 1):
                run, own = waiting.popleft(), opened.enter_context(ExitStack())
                known = None if failures is None else failures.get(run.id, 0)
                coming.append((run, pool.submit(_opened, run, directory / run.id, own, known), own))
            run, future, own = coming.popleft()
            ended: Member | Result | Exception
            try:
                with exits_are_errors():
                    ended = future.result() or begun(run)
            except Exception as error:
                if isinstance(error, OSError) and no_space(error):
                    raise
                if no_memory(error) and members:
                    break
                ended = error if failures is None else _recorded(run, directory / run.id, error)
            if not isinstance(ended, Member):
                found[run.id] = ended
            # Its directory may say another step: a process was killed between two files, or has trained it since.
            elif not members or ended.step == members[0].step:
                members.append(ended)
                claims.push(own.pop_all())
                if len(members) == 1:
                    most = min(most, _fitting(ended, wanted))
            own.close()
    if members:
        kind = Threads if members[0].live.device.type == "cpu" else Forks
        with kind(write_description) as describing:
            describing.begin([(member.live.run, member.folder) for member in members])()
    return found


@contextmanager
def _unwatched(end: ExitStack) -> Iterator[None]:
    """What is made within it is not searched for garbage until the end: thousands of models, and none of it."""
    enabled = gc.isenabled()
    gc.collect()  # garbage of an earlier fleet would be kept by this one, and by all that follow
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        end.callback(gc.unfreeze)
        if enabled:
            gc.enable()


def _opened(run: Run, folder: Path, claims: ExitStack, failures: int | None) -> Result | None:
    """Claims the run's directory; returns its result where another process was faster."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    claims.enter_context(claim(folder))
    refuse_old([folder])
    refuse_changed(run, folder)
    if (folder / "result.json").exists():
        return read_result(folder / "result.json")
    if failures is not None and (reason := failed_since(folder, failures)) is not None:
        raise FailedError(reason)
    return None


def _recorded(run: Run, folder: Path, error: Exception) -> Exception:
    """The error of a run that could not begin, after writing it down; the caller still holds the claim."""
    if isinstance(error, ClaimedError | FailedError):
        return error
    return FailedError(write_failure(run, folder, error))


def _fitting(member: Member, wanted: int | None) -> int:
    try:
        with exits_are_errors():
            return width(member.live, wanted)
    except Exception as error:  # perhaps one of the run's own code
        raise _cannot_stack(error) from error


def _member(run: Run, directory: Path, device: torch.device, initial: bool) -> Member:
    """The run where its checkpoint is; where that is, an ``initial`` snapshot that it lacks is written first."""
    live, state = _begun(run, directory, device, initial)
    if state is None:
        return Member(live, directory / run.id)
    rows = state["metrics"]
    optimizer, seconds = state.get("optimizer"), rows[-1]["seconds"]
    return Member(live, directory / run.id, optimizer=optimizer, rows=rows, seconds=seconds)


def _trial(run: Run, directory: Path, device: torch.device) -> Trial:
    return Trial(*_begun(run, directory, device))


def _begun(
    run: Run, directory: Path, device: torch.device, initial: bool = False
) -> tuple[Live, dict[str, Any] | None]:
    """The run where its checkpoint is, and the content of that."""
    folder = directory / run.id
    live = begin(run, directory, device, lambda other: read_result(directory / other.id / "result.json"))
    if initial and (folder / "checkpoint.pt").exists() and not snapshot_path(folder, 0).exists():
        write_snapshot(folder, 0, live.finalized_weights())  # those of the checkpoint are others
    return live, resume(live, folder)


def _cannot_stack(error: Exception) -> CannotStackError:
    text = " ".join(str(error).split())
    if not isinstance(error, ValueError):  # torch tells a story
        text = f"{type(error).__name__}: {text.split('. ')[0]}"
    return CannotStackError(text)


def _claims() -> int:
    """How many directories this process can claim at a time, each with an open file, after asking for as many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):  # macOS has no limit and allows less
            hard = soft
    if hard == resource.RLIM_INFINITY:
        return 1_000_000
    return max(hard - max(min(_FILES, hard // 2), _open_files() + _WRITTEN), 1)


def _open_files() -> int:
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:  # a system that does not tell
        return 0
