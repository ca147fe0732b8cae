"""Threads and forked processes that write the results of a fleet's runs."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from openwork.study.files import WriteError
from openwork.study.fleet import writers
from openwork.study.fleet.writers import Forks, SharedMemory, Threads

KINDS = [Threads, Forks]


@pytest.fixture(autouse=True)
def _three_writers(monkeypatch):
    monkeypatch.setattr(writers, "WRITERS", 3)
    monkeypatch.setattr(writers, "PROCESSES", 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4))


def squared(number: int) -> int:
    if number < 0:
        raise WriteError(28, "No space left on device", f"/full/{number}")
    return number**2


class TwoArgumentsError(Exception):
    """Cannot be unpickled."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(what)


def refusing(_: int) -> int:
    raise TwoArgumentsError("a", "b")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 3, 7])
def test_results_come_in_the_order_of_the_items_and_once(kind, count):
    with kind(squared) as pool:
        going = [pool.begin([(number,) for number in range(first, first + count)]) for first in (0, 10)]
        assert [results() for results in going] == [[n**2 for n in range(f, f + count)] for f in (0, 10)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_error_is_raised_once_all_have_ended(kind, tmp_path):
    def write(number):
        squared(number)
        (tmp_path / str(number)).touch()

    with kind(write) as pool:
        results = pool.begin([(0,), (1,), (-2,), (3,), (-4,), (5,)])
        with pytest.raises(WriteError, match="/full/-2") as error:
            results()
    assert error.value.errno == 28
    assert sorted(each.name for each in tmp_path.iterdir()) == ["0", "1", "3", "5"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_that_cannot_be_pickled_is_raised_all_the_same(kind):
    with kind(refusing) as pool:
        results = pool.begin([(0,)])
        with pytest.raises(TwoArgumentsError):
            results()


@pytest.mark.parametrize("kind", KINDS)
def test_whoever_leaves_waits_for_what_has_begun(kind, tmp_path):
    def write(number):
        time.sleep(0.2)
        (tmp_path / str(number)).touch()

    def interrupted():
        with kind(write) as pool:
            pool.begin([(number,) for number in range(6)])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(list(tmp_path.iterdir())) == 6


def test_what_a_killed_process_left_undone_is_done_here():
    here = os.getpid()

    def write(number):
        if number == 4 and os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return number, os.getpid()

    with Forks(write) as pool:
        found = pool.begin([(number,) for number in range(6)])()
    assert [number for number, _ in found] == [*range(6)]
    assert [number for number, process in found if process == here] == [1, 4]  # the share of one of three


def test_what_a_process_that_hangs_left_undone_is_done_here(monkeypatch, tmp_path):
    monkeypatch.setattr(writers, "PATIENCE", 1)
    here, lock = os.getpid(), threading.Lock()

    def write(number):
        if number >= 3 and lock.acquire(timeout=20):  # the second item of each process
            lock.release()
        with (tmp_path / str(number)).open("a") as file:
            file.write(str(os.getpid() == here))
        return number, os.getpid()

    with Forks(write) as pool:
        with lock:  # as another thread of this process may hold it: in the forked ones nobody releases it
            results = pool.begin([(number,) for number in range(5)])
        found = results()
    assert [number for number, _ in found] == [*range(5)]
    assert [number for number, process in found if process == here] == [0, 1, 3, 4]  # the shares of two of three
    assert [(tmp_path / str(number)).read_text() for number in range(5)] == ["FalseTrue", "FalseTrue", "False"] + (
        ["True"] * 2
    )


def test_a_process_that_goes_on_may_take_its_time(monkeypatch):
    monkeypatch.setattr(writers, "PATIENCE", 2)
    with Forks(lambda _: time.sleep(0.8) or os.getpid()) as pool:
        results = pool.begin([(number,) for number in range(9)])
        time.sleep(3)  # what is done waits for this process without a limit
        assert os.getpid() not in results()


def test_a_process_that_somebody_else_has_waited_for_has_done_its_share():
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as a shell's trap '' CHLD leaves it
    try:
        with Forks(lambda number: (number, os.getpid())) as pool:
            found = pool.begin([(number,) for number in range(6)])()
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert [number for number, _ in found] == [*range(6)]
    assert os.getpid() not in {process for _, process in found}


def test_a_signal_that_comes_with_the_fork_ends_nothing_of_the_first_process(monkeypatch):
    fork = os.fork

    def interrupted():
        process = fork()
        if process == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return process

    monkeypatch.setattr(os, "fork", interrupted)
    with Forks(lambda number: (number, os.getpid())) as pool:
        found = pool.begin([(number,) for number in range(6)])()
    assert [number for number, _ in found] == [*range(6)]
    assert os.getpid() not in {process for _, process in found}
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_where_no_process_can_be_forked_this_one_writes(monkeypatch):
    def fork():
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    with Forks(squared) as pool:
        assert pool.begin([(1,), (2,), (3,), (4,)])() == [1, 4, 9, 16]


def test_forks_are_waited_for_where_sigchld_is_ignored():
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as a parent may leave it to its programs
    try:
        with Forks(squared) as pool:
            assert pool.begin([(1,), (2,), (3,), (4,)])() == [1, 4, 9, 16]
    finally:
        signal.signal(signal.SIGCHLD, before)


KILLED = """
import os, sys, time
from pathlib import Path
from openwork.study.fleet import writers

def write(number):
    (Path(sys.argv[1]) / str(number)).touch()
    time.sleep(0.5)

os.sched_getaffinity = lambda _: range(8)
with writers.Forks(write) as pool:
    pool.begin([(number,) for number in range(64)])
    print("begun", flush=True)
    time.sleep(60)
"""


def test_forks_stop_after_their_item_when_the_first_process_is_killed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"begun\n"
        while len(list(tmp_path.iterdir())) < 8:  # the first of each
            time.sleep(0.01)
        process.kill()
        process.wait()
        process.stdout.read()  # which the forks hold open, too
    assert len(list(tmp_path.iterdir())) <= 2 * 8


def test_memory_is_the_same_again_and_forks_see_what_is_written_there():
    memory = SharedMemory()
    sources = [torch.randn(3, 4), torch.tensor([True, False]), torch.zeros(0, 5), torch.randn(4, 6).t()]
    first = [memory.copied(each) for each in sources]
    assert all(torch.equal(*pair) for pair in zip(first, sources, strict=True))
    assert len({each.data_ptr() for each in first if each.numel()}) == 3
    memory.clear()
    again = [memory.copied(each.clone()) for each in sources]
    assert [each.data_ptr() for each in again] == [each.data_ptr() for each in first]
    memory.clear()
    larger = memory.copied(torch.ones(100))

    def write(_):
        larger.fill_(7.0)

    with Forks(write) as pool:
        pool.begin([(None,)])()
    assert larger.unique().tolist() == [7.0]


def test_results_of_a_fork_leave_the_objects_here_as_they_were(tmp_path: Path):
    seen: list[int] = []
    with Forks(seen.append) as pool:
        assert pool.begin([(1,)])() == [None]
    assert seen == []
