"""The script that executes the large half on all cards of a machine starts its processes where they belong."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "results" / "large" / "cards.sh"
DAEMON = """said=$1
[ $# -gt 0 ] || read -r said
[ "$said ${CUDA_VISIBLE_DEVICES-}" != "-d ${SLOW-}" ] || command -p sleep 1
echo "$said $CUDA_MPS_PIPE_DIRECTORY ${CUDA_VISIBLE_DEVICES-}" >>"$LOG/daemons"
"""
PYTHON = """echo "$CUDA_MPS_PIPE_DIRECTORY $CUDA_VISIBLE_DEVICES $*" >>"$LOG/calls"
[ "$(grep -c . "$LOG/calls")" -gt "$TIMES" ] || echo "H rows, Transformer, masks: 1 run in 3 s, expected 2; 0 left"
echo "a traceback" >&2
case "$CUDA_MPS_PIPE_DIRECTORY" in */0) exit "$CODE" ;; esac
"""


@pytest.fixture
def execute(tmp_path):
    """Executes the script with programs that note how they were called, and of which the first calls have work."""
    for name, text in (("nvidia-cuda-mps-control", DAEMON), ("python", PYTHON), ("sleep", "")):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{text}")
        path.chmod(0o755)

    def call(*arguments, times=0, code=0, **more):
        found = {"LOG": str(tmp_path), "TIMES": str(times), "CODE": str(code)} | more
        paths = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        command = ["bash", str(SCRIPT), *map(str, arguments)]
        environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        done = subprocess.run(
            command,
            env=environment | found | paths,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
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
    assert {call.split()[1] for call in calls} == {"0"}
    assert all(call.endswith("--parts HI") and "--alone --seconds" in call for call in calls)
    for where in begun:
        assert sum(call.startswith(f"{where} ") for call in calls) == 3
        assert not Path(where).exists()
    assert len([*(tmp_path / "runs").glob("process-*-*.txt")]) == 6


def test_a_process_asks_again_until_nothing_is_left(execute, tmp_path):
    done, calls = execute(tmp_path / "rows", tmp_path / "my runs", 1, 1, 50, times=4)
    assert len(calls) == 5
    log = (tmp_path / "my runs" / "process-0-0.txt").read_text()
    assert (log.count("1 run in 3 s"), log.count("a traceback"), done.stderr) == (4, 5, "")


def test_a_process_for_whose_next_run_the_time_is_too_short_ends(execute, tmp_path):
    (tmp_path / "bin" / "python").write_text(
        '#!/usr/bin/env bash\necho call >>"$LOG/calls"; echo "H: 1 run would take 300 s more; call again"\n'
    )
    assert len(execute(tmp_path / "rows", tmp_path / "runs", 1, 2, 50)[1]) == 2


def test_a_run_that_fails_ends_its_process_and_the_exit_code_says_so(execute, tmp_path):
    done, calls = execute(tmp_path / "rows", tmp_path / "runs", 2, 2, 50, code=1, SLOW="1")
    assert done.returncode == 1
    assert len(calls) == 4
    assert (tmp_path / "daemons").read_text().count("quit") == 2


def test_the_cards_are_those_that_the_caller_may_use(execute, tmp_path):
    done, calls = execute(tmp_path / "rows", tmp_path / "runs", 2, 1, 50, CUDA_VISIBLE_DEVICES="2,5")
    assert (done.returncode, len(calls)) == (0, 2)
    begun = [line.split()[2] for line in (tmp_path / "daemons").read_text().splitlines() if line.startswith("-d")]
    assert begun == ["2", "5"]
    done, calls = execute(tmp_path / "rows", tmp_path / "runs", 3, 1, 50, CUDA_VISIBLE_DEVICES="2,5")
    assert (done.returncode, len(calls)) == (2, 2)
    assert "CUDA_VISIBLE_DEVICES=2,5 has fewer than 3 cards; give 2" in done.stderr


@pytest.mark.parametrize(
    "more", [(), (2, 3), (0, 3, 50), ("08", 3, 50), (2, "x", 50), (2, 0, 50), (2, 3, "1h"), (2, 3, -5)]
)
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


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_processes_and_the_daemons(execute, tmp_path, sent):
    trains = 'echo $$ >>"$LOG/pids"; touch "$LOG/calls"; exec tail -f /dev/null'
    (tmp_path / "bin" / "python").write_text(f"#!/usr/bin/env bash\n{trains}\n")
    paths = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "LOG": str(tmp_path)}
    command = ["bash", str(SCRIPT), str(tmp_path / "rows"), str(tmp_path / "my runs"), "1", "2", "50"]
    script = subprocess.Popen(command, env=os.environ | paths, preexec_fn=listen)
    pids = tmp_path / "pids"
    until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    script.send_signal(sent)
    assert script.wait(30) == 128 + sent
    until(lambda: not any(map(alive, pids.read_text().split())))
    assert "quit" in (tmp_path / "daemons").read_text()


def listen():
    """Heeds Ctrl-C, which what runs in the background ignores, and hands down."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


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
