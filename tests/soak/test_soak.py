"""4,000 runs on Ray whose driver and workers are killed again and again; `make soak`."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from openwork.study.runs.execute import execute
from tests.processes import OPENWORK, ROOT
from tests.study import tinylab

RUNS, DRIVER_KILLS, WORKER_KILLS = 4_000, 10, 20
PARALLEL = 2
SEED = 0


@pytest.mark.soak
def test_four_thousand_runs_survive_thirty_kills_and_none_is_done_twice(tmp_path):
    moments = random.Random(SEED)
    kills = ["driver"] * DRIVER_KILLS + ["worker"] * WORKER_KILLS
    moments.shuffle(kills)
    begun = sorted(moments.randrange(20, RUNS - 50) for _ in kills)
    seen: dict[str, tuple[int, int]] = {}
    driver = start(tmp_path)
    for kind, when in zip(kills, begun, strict=True):
        while len(attempts(tmp_path)) < when:
            assert driver.poll() is None, "the driver ended before its time"
            time.sleep(0.02)
        time.sleep(moments.random() * 0.03)
        # A worker that was the last to begin a run is most probably in the middle of it.
        pid = driver.pid if kind == "driver" else alive([pid for _, pid in attempts(tmp_path)])
        os.kill(pid, signal.SIGKILL)
        sys.stdout.write(f"killed {kind} {pid} after {len(attempts(tmp_path))} attempts\n")
        note_results(tmp_path / "runs", seen)
        if kind == "driver":
            driver.wait()
            driver = start(tmp_path)
    assert driver.wait(timeout=1800) == 0
    note_results(tmp_path / "runs", seen)

    rows = table(tmp_path)
    assert len(rows) == RUNS
    assert {row["id"] for row in rows} == {run.id for run in tinylab.thousands()}
    assert {row["status"] for row in rows} == {"finished"}
    # Only runs that a kill can have interrupted began again.
    again = len(attempts(tmp_path)) - RUNS
    assert again <= DRIVER_KILLS * PARALLEL + WORKER_KILLS
    for run in random.Random(SEED).sample(tinylab.thousands(), 20):
        result = execute(run, tmp_path / "undisturbed", evaluations=2)
        (row,) = [row for row in rows if row["id"] == run.id]
        assert float(row["after_loss"]) == result.after["loss"]
        weights = [load_file(tmp_path / name / run.id / "model.safetensors") for name in ("runs", "undisturbed")]
        assert all(tensor.equal(weights[1][name]) for name, tensor in weights[0].items())
    sys.stdout.write(f"{again} attempts were repeated\n")


def start(folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "JOURNAL": str(folder / "journal")}
    command = [OPENWORK, "sweep", "tests.study.tinylab:thousands"]
    command += ["--out", str(folder / "runs"), "--ray", "local", "--evaluations", "2"]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)


def attempts(folder: Path) -> list[tuple[int, int]]:
    """The seed and the process of each attempt so far, in the order of their beginnings."""
    path = folder / "journal"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(seed), int(pid)) for seed, _, pid, _ in (line.split() for line in lines)]


def alive(pids: list[int]) -> int:
    """The last of the processes that still exists."""
    return next(pid for pid in reversed(pids) if Path(f"/proc/{pid}").exists())


def note_results(directory: Path, seen: dict[str, tuple[int, int]]) -> None:
    """Which file each result is, by id, of those that are not in ``seen`` yet; those that are must be the same."""
    for path in directory.glob("*/result.json"):
        status = path.stat()
        file = (status.st_ino, status.st_mtime_ns)
        assert seen.setdefault(path.parent.name, file) == file, f"{path} was written twice"


def table(folder: Path) -> list[dict[str, str]]:
    command = [OPENWORK, "results", "runs", "--csv", "rows.csv"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    with (folder / "rows.csv").open(newline="") as file:
        return list(csv.DictReader(file))
