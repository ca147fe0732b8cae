"""`openwork sweep` and `openwork results` as a user types them."""

import csv
import json
import os
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests import processes
from tests.study import tinylab


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder with a module of experiments."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copy(tinylab.__file__, folder / "mylab.py")
    return folder


def start(folder: Path, *arguments: str) -> processes.Forked:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JOURNAL", str(folder / "journal"))
        return processes.start_openwork(folder, *arguments)


def openwork(folder: Path, *arguments: str, code: int = 0) -> tuple[str, str]:
    """What it printed and what it complained about, each in one line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JOURNAL", str(folder / "journal"))
        answer = processes.openwork(folder, *arguments, code=code)
    return " ".join(answer.stdout.split()), " ".join(answer.stderr.split())


def attempts(folder: Path) -> Counter[str]:
    """How often a training of each seed began, since the last time."""
    path = folder / "journal"
    seeds = Counter(line.split()[0] for line in path.read_text().splitlines())
    path.unlink()
    return seeds


def test_a_sweep_that_is_killed_goes_on_where_it_was(folder):
    with start(folder, "sweep", "mylab:slow", "--out", "killed") as process:
        while not list(folder.glob("killed/*/result.json")):
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
    assert len(list(folder.glob("killed/*/result.json"))) == 1
    assert attempts(folder) == {"0": 1, "1": 1}
    printed, errors = openwork(folder, "sweep", "mylab:slow", "--out", "killed")
    assert "4 runs: 4 finished, 0 diverged, 0 failed" in printed
    assert "1 of 4 runs done" in errors
    assert attempts(folder) == {"1": 1, "2": 1, "3": 1}


def test_two_sweeps_of_one_folder_share_the_runs(folder):
    both = [start(folder, "sweep", "mylab:slow", "--out", "shared") for _ in range(2)]
    for process in both:
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert "4 runs: 4 finished" in printed
    assert attempts(folder) == {"0": 1, "1": 1, "2": 1, "3": 1}
    assert not list(folder.glob("shared/*/lock"))


def test_ctrl_c_stops_it_and_leaves_whole_files(folder):
    with start(folder, "sweep", "mylab:slow", "--out", "stopped") as process:
        while not list(folder.glob("stopped/*/metrics.jsonl")):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert not list(folder.glob("stopped/*/lock"))
    attempts(folder)


@pytest.mark.slow
def test_a_sweep_whose_ray_is_killed_says_so_and_goes_on_where_it_was(folder):
    pytest.importorskip("ray", reason='ray is not installed: pip install "openwork[cluster]"')
    with start(folder, "sweep", "mylab:slow", "steps=80", "--out", "dead", "--ray", "local") as process:
        while not list(folder.glob("dead/*/result.json")):
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.3)
        tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
        children = [pid for task in tasks for pid in task.read_text().split()]
        (raylet,) = [pid for pid in children if Path(f"/proc/{pid}/comm").read_text() == "raylet\n"]
        os.kill(int(raylet), signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
    # Ray's workers notice it after a while, in which they may come to the end.
    assert process.returncode == 0 or "error: Ray has died; finished runs are kept" in errors
    before = {path: path.stat().st_mtime_ns for path in folder.glob("dead/*/result.json")}
    attempts(folder)
    (folder / "journal").touch()
    printed, _ = openwork(folder, "sweep", "mylab:slow", "steps=80", "--out", "dead", "--ray", "local")
    assert "4 runs: 4 finished, 0 diverged, 0 failed" in printed
    assert attempts(folder).total() == 4 - len(before)
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())


def test_failures_are_summed_up_and_tried_again_on_request(folder):
    printed, errors = openwork(folder, "sweep", "mylab:mixed", "--out", "mixed", code=1)
    assert "6 runs: 2 finished, 1 diverged, 3 failed" in printed
    assert "1 failed: RuntimeError: the loss is wrong" in errors
    assert "--retry-failed tries again" in errors
    assert "without a result: 3 failed, 0 unfinished" in openwork(folder, "results", "mixed")[1]
    (folder / "repaired").touch()
    openwork(folder, "sweep", "mylab:mixed", "--out", "mixed", code=1)
    printed, _ = openwork(folder, "sweep", "mylab:mixed", "--out", "mixed", "--retry-failed", "--json", code=1)
    assert Counter(json.loads(printed)["runs"].values()) == {"finished": 4, "diverged": 1, "failed": 1}


def test_a_dry_run_counts_and_prices_and_writes_nothing(folder):
    printed, _ = openwork(folder, "sweep", "openwork.study.experiments.mnist:table", "--dry-run", "--out", "dry")
    assert "46 runs, 5,316,000 steps left; 5,316,000 steps have no price: --measure times some" in printed
    printed, _ = openwork(folder, "sweep", "mylab:grid", "--dry-run", "--measure", "--out", "dry", "--json")
    dense, pruned = json.loads(printed)["prices"]
    assert (dense["states"], dense["steps"], pruned["name"]) == ({"new": 6}, 120, "GradualMagnitude")
    assert dense["hours"] == pytest.approx(dense["step_ms"] * 120 / 3.6e6)
    assert not (folder / "dry").exists()


def test_results_of_two_folders_are_one_table(folder):
    openwork(folder, "sweep", "mylab:grid", "--out", "one", "--json")
    shutil.copytree(folder / "one", folder / "two")
    path = next(folder.glob("two/*/result.json"))
    result = json.loads(path.read_text())
    path.write_text(json.dumps({**result, "after": {**result["after"], "accuracy": 0.125}}))
    shutil.rmtree(next(p for p in folder.glob("one/*") if p.name != result["id"]))
    printed, errors = openwork(folder, "results", "one", "two", "--csv", "all.csv", "--parquet", "all.parquet")
    assert "12 rows in " in printed
    assert f"run {result['id']} has another after_accuracy in two than in one; the row is that of one" in errors
    with (folder / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["id"] for row in rows}) == len(rows) == 12
    assert "0.125" not in {row["after_accuracy"] for row in rows}
    table = pq.read_table(folder / "all.parquet").to_pylist()
    assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in table] == rows


@pytest.mark.parametrize("command", [["run"], ["sweep"], ["sweep", "--fleet"], ["sweep", "--ray", "local"]], ids=str)
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--snapshots", "4"], "snapshots must be from 0 to the 3 evaluations, got 4; keep fewer of a run of 3 steps"),
        (["--snapshots", "-1"], "invalid value for '--snapshots'"),
        (["--evaluations", "0"], "invalid value for '--evaluations'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_more_snapshots_than_evaluations_are_refused_before_anything_is_written(folder, command, options, sentence):
    name, *more = command
    _, error = openwork(folder, name, "mylab:mixed", *more, *options, "--out", "kept", "--name", "one", code=2)
    assert sentence in error
    assert not (folder / "kept").exists()


def test_finished_runs_are_not_asked_for_snapshots(folder):
    (folder / "repaired").unlink(missing_ok=True)
    openwork(folder, "sweep", "mylab:mixed", "--out", "kept", code=1)
    more = ["--snapshots", "21", "--out", "kept"]
    output, _ = openwork(folder, "sweep", "mylab:mixed", *more, code=1)
    assert "6 runs: 2 finished, 1 diverged, 3 failed" in output
    _, error = openwork(folder, "sweep", "mylab:mixed", *more, "--retry-failed", code=2)
    assert "snapshots must be from 0 to the 4 evaluations, got 21" in error
    output, _ = openwork(folder, "run", "mylab:grid", "--out", "done")
    assert openwork(folder, "run", "mylab:grid", *more[:2], "--out", "done")[0] == output
    _, error = openwork(folder, "run", "mylab:grid", "steps=19", *more, code=2)
    assert "snapshots must be from 0 to" in error


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["sweep", "mylab:slow", "--ray", "127.0.0.1:1"], "cannot use Ray at '127.0.0.1:1': [Errno 111]"),
        (["sweep", "mylab:slow", "--ray", "local", "--gpus", "0.5"], "Ray chooses the GPU; give --device cuda"),
        (["sweep", "mylab:slow", "--gpus", "1"], "--cpus and --gpus belong to --ray"),
        (["sweep", "mylab:slow", "--measure"], "--measure belongs to --dry-run"),
        (["sweep", "mylab:slow", "--out", "mylab.py"], "cannot use mylab.py"),
    ],
)
def test_bad_input_gives_one_sentence(folder, arguments, sentence):
    assert sentence in openwork(folder, *arguments, code=2)[1]
