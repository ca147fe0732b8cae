import fcntl
import os
import signal
import socket
import threading

import pytest

from openwork.study.files import WriteError
from openwork.study.locks import is_held
from openwork.study.runs.claim import ClaimedError, claim
from tests.processes import start


def test_a_claim_excludes_other_processes_until_its_own_is_killed(tmp_path):
    with start("hold_claim", tmp_path) as holder:
        assert holder.stdout.readline() == "held\n"
        sentence = rf"process {holder.pid} on .+ is training run {tmp_path.name}; wait for it, or stop it"
        with pytest.raises(ClaimedError, match=sentence), claim(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert (tmp_path / "lock").exists()  # its file is left, and blocks nobody
    with claim(tmp_path):
        assert f"process {os.getpid()} " in (tmp_path / "lock").read_text()
    assert not list(tmp_path.iterdir())


def test_who_looks_sees_the_claim_of_a_living_process_alone(tmp_path):
    lock = tmp_path / "lock"
    assert not is_held(lock)
    with start("hold_claim", tmp_path) as holder:
        assert holder.stdout.readline() == "held\n"
        assert is_held(lock)
        os.truncate(lock, 0)  # as before it has signed
        assert is_held(lock)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert not is_held(lock)
    lock.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")  # a number that another process has now
    assert not is_held(lock)
    lock.write_text("process 1 on another-machine\n")  # perhaps on a file system whose locks end at the machine
    assert is_held(lock)


def test_who_looks_keeps_nobody_from_a_claim(tmp_path):
    with (tmp_path / "lock").open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)  # as `is_held` does for a moment
        threading.Timer(0.1, looking.close).start()
        with claim(tmp_path):
            assert is_held(tmp_path / "lock")


def test_a_forked_child_that_outlives_the_claimant_does_not_hold_the_claim(tmp_path):
    with start("hold_claim", tmp_path, "fork") as holder:
        child = int(holder.stdout.readline())
        try:
            with pytest.raises(ClaimedError), claim(tmp_path):  # what the child closes frees nothing
                pass
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            with claim(tmp_path):
                os.kill(child, 0)  # it lives
        finally:
            os.kill(child, signal.SIGKILL)


def test_of_many_who_claim_at_once_one_has_it_at_a_time(tmp_path):
    inside, taken, refused = [], [], []

    def take(name):
        for _ in range(200):
            try:
                with claim(tmp_path):
                    inside.append(name)
                    assert inside == [name]
                    inside.remove(name)
                    taken.append(name)
            except ClaimedError:
                refused.append(name)

    threads = [threading.Thread(target=take, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) + len(refused) == 800  # an assertion that fails ends its thread early
    assert taken


def test_a_folder_without_locks_is_named(tmp_path):
    with pytest.raises(WriteError, match=r"No such file or directory: .*gone.lock"), claim(tmp_path / "gone"):
        pass
