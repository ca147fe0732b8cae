"""The script that executes the large half on all cards of a machine starts its processes where they belong."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "results" / "large" / "cards.sh"
DAEMON = """read -r -t 1 said || said=$1
echo "$said $CUDA_MPS_PIPE_DIRECTORY ${CUDA_VISIBLE_DEVICES-}" >>"$LOG/daemons"
"""
PYTHON = """echo "$CUDA_MPS_PIPE_DIRECTORY $CUDA_VISIBLE_DEVICES $*" >>"$LOG/calls"
[ "$(grep -c . "$LOG/calls")" -gt "$TIMES" ] || echo "H rows, Transformer, masks: 1 run in 3 s, expected 2; 0 left"
exit "$CODE"
"""


@pytest.fixture
def execute(tmp_path):
    """Executes the script with programs that note how they were called, and of which the first calls have work."""
    for name, text in (("nvidia-cuda-mps-control", DAEMON), ("python", PYTHON), ("sleep", "")):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{text}")
        path.chmod(0o755)

    def call(*arguments, times=0, code=0):
        found = {"LOG": str(tmp_path), "TIMES": str(times), "CODE": str(code)}
        paths = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        command = ["bash", str(SCRIPT), *map(str, arguments)]
        done = subprocess.run(command, env=os.environ | found | paths, capture_output=True, text=True, timeout=60)
        calls = (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []
        return done, calls

    return call


def test_each_card_has_a_daemon_and_processes_that_see_it_alone(execute, tmp_path):
    done, calls = execute(tmp_path / "rows", tmp_path / "runs", 2, 3, 50, "--parts", "HI")
    assert (done.returncode, done.stderr) == (0, "")
    daemons = [line.split() for line in (tmp_path / "daemons").read_text().splitlines()]
    begun = {where: card for said, where, *card in daemons if said == "-d"}
    assert sorted(begun.values()) == [["0"], ["1"]]
    assert {where for said, where, *_ in daemons if said == "quit"} == begun.keys()
    assert len(calls) == 6
    assert all(" 0 " in call and call.endswith("--parts HI") and "--alone --seconds" in call for call in calls)
    for where in begun:
        assert sum(call.startswith(f"{where} ") for call in calls) == 3
        assert not Path(where).exists()
    assert len([*(tmp_path / "runs").glob("process-*-*.txt")]) == 6


def test_a_process_asks_again_until_nothing_is_left(execute, tmp_path):
    _, calls = execute(tmp_path / "rows", tmp_path / "runs", 1, 1, 50, times=4)
    assert len(calls) == 5
    assert (tmp_path / "runs" / "process-0-0.txt").read_text().count("1 run in 3 s") == 4


def test_a_run_that_fails_ends_its_process_and_the_exit_code_says_so(execute, tmp_path):
    done, calls = execute(tmp_path / "rows", tmp_path / "runs", 1, 2, 50, times=9, code=1)
    assert done.returncode == 1
    assert len(calls) == 2
    assert "quit" in (tmp_path / "daemons").read_text()


@pytest.mark.parametrize("more", [(), (2, 3), (0, 3, 50), (2, "x", 50), (2, 3, "1h")])
def test_without_its_arguments_it_says_which(execute, more):
    done, calls = execute("rows", "runs", *more)
    assert (done.returncode, calls) == (2, [])
    assert done.stderr.startswith("bash results/large/cards.sh ROWS RUNS CARDS PROCESSES SECONDS")


@pytest.mark.skipif(shutil.which("nvidia-cuda-mps-control") is not None, reason="MPS is here")
def test_without_mps_it_says_so_before_anything_begins(execute, tmp_path):
    (tmp_path / "bin" / "nvidia-cuda-mps-control").unlink()
    done, calls = execute(tmp_path / "rows", tmp_path / "runs", 1, 1, 50)
    assert (done.returncode, calls) == (1, [])
    assert "nvidia-cuda-mps-control is not on the PATH" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_ends_the_processes_and_the_daemons(execute, tmp_path):
    trains = 'echo $$ >>"$LOG/pids"; touch "$LOG/calls"; exec tail -f /dev/null'
    (tmp_path / "bin" / "python").write_text(f"#!/usr/bin/env bash\n{trains}\n")
    paths = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "LOG": str(tmp_path)}
    command = ["bash", str(SCRIPT), str(tmp_path / "rows"), str(tmp_path / "my runs"), "1", "2", "50"]
    script = subprocess.Popen(command, env=os.environ | paths, start_new_session=True)
    pids = tmp_path / "pids"
    until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    os.killpg(script.pid, signal.SIGINT)  # as a terminal does
    assert script.wait(30) != 0
    until(lambda: not any(map(alive, pids.read_text().split())))
    assert "quit" in (tmp_path / "daemons").read_text()


def until(holds):
    """Waits for it."""
    for _ in range(600):
        if holds():
            return
        time.sleep(0.05)
    raise TimeoutError


def alive(pid):
    """Whether a process runs, and is no zombie that nobody has asked for."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
