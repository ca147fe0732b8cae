"""Who writes the results of a fleet's runs, while the next ones are measured.

On a CPU it is threads. On a GPU thousands of runs end at once, and most of the time to write one is Python's: threads
would take turns at it. There it is processes, forked from this one for some runs each, which have everything as it is
and ask nothing of the device: CUDA does not work in them.
"""

import gc
import mmap
import os
import pickle
import signal
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

import torch
from torch import Tensor

WRITERS = 8
"""Threads."""
PROCESSES = 12
"""Processes, where there are as many processors."""
PATIENCE = 600.0
"""Seconds that a process may take for one item: then it is taken to wait for a lock that nobody in it can release."""
_STOPPING = (signal.SIGINT, signal.SIGTERM)

Write = Callable[..., Any]
Item = tuple[Any, ...]
Results = Callable[[], list[Any]]


class Writers(ABC):
    """Calls a function for some items after the other, beside what this process does.

    Args:
        write: The function.
    """

    def __init__(self, write: Write) -> None:
        self.write = write

    def __enter__(self) -> "Writers":
        return self

    @abstractmethod
    def __exit__(self, *_: object) -> None:
        """Waits for what has begun."""

    @abstractmethod
    def begin(self, items: Sequence[Item]) -> Results:
        """Calls ``write(*item)`` for each.

        Returns:
            What waits until all have ended, and returns what ``write`` returned, in the order of the items; or raises
            what it raised for the first of those that it raised for. To be called once.
        """


class Threads(Writers):
    """Writes by threads."""

    def __init__(self, write: Write) -> None:
        super().__init__(write)
        self._pool = ThreadPoolExecutor(WRITERS)

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def begin(self, items: Sequence[Item]) -> Results:
        """Submits a call for each."""
        going = [self._pool.submit(self.write, *item) for item in items]
        return lambda: _those([_answer(future.result) for future in going])


class Forks(Writers):
    """Writes by processes: ``write`` must not use a GPU, and of what it does to objects only what it returns stays.

    What a process leaves undone, because it could not be forked, was killed or hung, this one does. A process hangs
    where another thread of this one held a lock when it was forked: the lock is copied as it was, the thread is not.
    """

    def __init__(self, write: Write) -> None:
        super().__init__(write)
        self._going: list[_Fork] = []

    def __exit__(self, *_: object) -> None:
        while self._going:
            self._wait(self._going[0])

    def begin(self, items: Sequence[Item]) -> Results:
        """Forks processes, each for a share of the items."""
        count = min(PROCESSES, len(os.sched_getaffinity(0)), len(items))
        forks = []
        for first in range(count):
            before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
            try:
                forks.append(self._forked(items[first::count]))
                self._going.append(forks[-1])
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

        def results() -> list[Any]:
            shares = [self._wait(fork) or [_answer(self.write, *item) for item in fork.share] for fork in forks]
            return _those([shares[place % count][place // count] for place in range(len(items))])

        return results

    def _forked(self, share: Sequence[Item]) -> "_Fork":
        reading, end = os.pipe()
        parent = os.getpid()
        process: int | None = None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of other threads: these write nothing
                process = os.fork()
        except OSError:  # for want of memory or processes
            pass
        if process == 0:
            self._write_and_exit(share, parent, end)
        os.close(end)
        return _Fork(share, process, os.fdopen(reading, "rb"))

    def _write_and_exit(self, share: Sequence[Item], parent: int, end: int) -> NoReturn:
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent waits for what has begun
            for number in (signal.SIGTERM, signal.SIGALRM):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (*_STOPPING, signal.SIGALRM))  # until here it would have raised
            _end_after(PATIENCE)
            gc.disable()  # what it frees may be CUDA's
            torch.set_num_threads(1)  # a fork has no others, and would wait for them
            answers = []
            for item in share:
                if os.getppid() != parent:  # it was killed, and with it ended its claims of the runs
                    os._exit(1)
                answers.append(_answer(self.write, *item))
                _end_after(PATIENCE)
            content = pickle.dumps(answers)
            _end_after(0)  # nothing is left but to be read, for which the first process may take its time
            with os.fdopen(end, "wb") as file:
                file.write(content)
        finally:
            os._exit(0)

    def _wait(self, fork: "_Fork") -> list[Any] | None:
        """Waits for the process; its answers, None if it did not come to its end."""
        content = fork.answers.read()
        if fork.process:
            with suppress(ChildProcessError):  # an interrupted wait, or whoever waits for any process, has taken it
                os.waitpid(fork.process, 0)
        self._going.remove(fork)  # not before: where this was interrupted, the end waits once more
        fork.answers.close()
        try:
            found: list[Any] = pickle.loads(content)
        except Exception:  # killed in the middle, by itself or others, or an error that cannot be pickled
            return None
        return found


@dataclass(frozen=True, eq=False)
class _Fork:
    """A process that writes a share of the items; ``process`` is None where none could be forked."""

    share: Sequence[Item]
    process: int | None
    answers: BinaryIO


class SharedMemory:
    """Memory of this process and those that it forks, which tensors are copied to again and again.

    To touch new memory takes longer than the copy.
    """

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self._used = 0

    def clear(self) -> None:
        """Lets what was copied be overwritten: nobody reads it any more."""
        self._used = 0

    def copied(self, tensor: Tensor) -> Tensor:
        """A copy of the tensor, contiguous."""
        size, place = tensor.nbytes, self._used
        if place == len(self._blocks) or self._blocks[place].numel() < size:
            self._blocks[place : place + 1] = [torch.frombuffer(mmap.mmap(-1, max(size, 1)), dtype=torch.uint8)]
        self._used += 1
        return self._blocks[place][:size].view(tensor.dtype).view(tensor.shape).copy_(tensor)


def _end_after(seconds: float) -> None:
    """Lets the system kill this process then, whatever it waits for; never for 0. A later call replaces an earlier."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _answer(call: Callable[..., Any], *arguments: Any) -> Any:
    """What the call returns or raises."""
    try:
        return call(*arguments)
    except Exception as error:
        return error


def _those(answers: Sequence[Any]) -> list[Any]:
    """The answers; raises the first one that was raised."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return list(answers)
