"""`openwork sweep --fleet` as a user types it."""

import csv
import json
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from openwork.study.fleet.execute import execute_fleet
from openwork.study.runs.execute import execute
from openwork.study.runs.run import Run
from openwork.study.sweeps.price import fleet_step_ms, prices
from tests.processes import OPENWORK, openwork, start_openwork
from tests.study import alonelab, tinylab
from tests.study.tinylab import PRUNE, Tiny

EXPERIMENTS = """
from mylab import *

def alike():
    return [Run(Slow(seconds=0.03), PRUNE, steps=30, seed=seed) for seed in range(6)]

def many():
    return [Run(Tiny(), PRUNE, steps=10, seed=seed) for seed in range(70)]

def kinds():
    return [Run(Tiny(), technique, steps=10, seed=seed) for technique in (None, PRUNE) for seed in range(3)] + [
        Run(Diverging(), None, steps=4, seed=seed) for seed in range(2)
    ]

def failing():
    return [Run(Failing(), PRUNE, steps=10, seed=seed) for seed in range(2)]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder with modules of experiments."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copy(tinylab.__file__, folder / "mylab.py")
    (folder / "fleets.py").write_text(EXPERIMENTS)
    return folder


def results(out: Path) -> dict[str, int]:
    """When each result was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("*/result.json")}


def test_a_fleet_that_is_killed_loses_no_finished_run_and_repeats_none(folder):
    out = folder / "killed"
    with start_openwork(folder, "sweep", "fleets:alike", "--fleet", "3", "--out", "killed") as process:
        while len(results(out)) < 3:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        while not any(path.parent.name not in results(out) for path in out.glob("*/run.json")):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    before = results(out)
    assert len(before) == 3
    answer = openwork(folder, "sweep", "fleets:alike", "--fleet", "3", "--out", "killed")
    assert "6 runs: 6 finished, 0 diverged, 0 failed" in answer.stdout
    assert "3 of 6 runs done" in answer.stderr
    after = results(out)
    assert len(after) == 6
    assert before.items() <= after.items()
    assert not list(out.glob("*/lock"))


def test_what_stops_a_fleet_is_told_that_the_same_command_goes_on(folder):
    out = folder / "stopped"
    with start_openwork(folder, "sweep", "fleets:alike", "--fleet", "--out", out.name) as process:
        while len(list(out.glob("*/run.json"))) < 6:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    said = " ".join(errors.split())
    assert f"stopped; what is done is kept in {out.resolve()}, and the same command goes on from there" in said
    assert "Traceback" not in errors
    assert not list(out.glob("*/lock"))
    assert not list(out.glob("*/.*"))


def test_two_sweeps_of_one_folder_share_the_runs(folder):
    command = ["sweep", "fleets:alike", "--fleet", "2", "--out", "shared", "--json"]
    both = [start_openwork(folder, *command) for _ in range(2)]
    for process in both:
        printed, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert Counter(json.loads(printed)["runs"].values()) == {"finished": 6}
    assert len(results(folder / "shared")) == 6
    assert not list(folder.glob("shared/*/lock"))


@pytest.mark.slow
def test_a_process_of_few_files_trains_narrower_fleets(folder):
    command = f"ulimit -n 64; exec {OPENWORK} sweep fleets:many --fleet --out few"
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "70 runs: 70 finished" in done.stdout
    rows = [json.loads(path.read_text()) for path in folder.glob("few/*/result.json")]
    assert Counter(row["environment"]["fleet"] for row in rows) == {32: 64, 6: 6}


def test_rows_say_the_width_of_the_fleet(folder):
    answer = openwork(folder, "sweep", "fleets:kinds", "--fleet", "2", "--out", "kinds", "--json", code=3)
    assert Counter(json.loads(answer.stdout)["runs"].values()) == {"finished": 6, "diverged": 2}
    assert answer.stderr.startswith("0 of 8 runs done, 0 running\n")
    openwork(folder, "results", "kinds", "--csv", "kinds.csv")
    with (folder / "kinds.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    widths = Counter((row["name"], row["status"], row["fleet"]) for row in rows)
    assert widths == {
        ("dense", "finished", "2"): 2,
        ("dense", "finished", ""): 1,
        ("GradualMagnitude", "finished", "2"): 2,
        ("GradualMagnitude", "finished", ""): 1,
        ("dense", "diverged", "2"): 2,
    }


def test_failures_are_said_and_their_runs_named(folder):
    answer = openwork(folder, "sweep", "fleets:failing", "--fleet", "--out", "failing", code=1)
    errors = " ".join(answer.stderr.split())
    assert "2 runs of GradualMagnitude are trained one by one: RuntimeError: the loss is wrong" in errors
    assert "2 failed: RuntimeError: the loss is wrong" in errors


def test_a_dry_run_prices_a_fleet_and_writes_nothing(folder):
    command = ["sweep", "fleets:kinds", "--dry-run", "--measure", "--out", "dry", "--json"]
    prices = json.loads(openwork(folder, *command, "--fleet").stdout)["prices"]
    assert [price["source"] for price in prices] == [f"20 steps of {n} runs now" for n in (3, 3, 2)]
    assert [price["steps"] for price in prices] == [30, 30, 8]  # a task with the title of another one is not that one
    assert not (folder / "dry").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence", "code"),
    [
        (["--fleet", "-1"], "invalid value for '--fleet'", 2),
        (["--fleet", "2.5"], "invalid value for '--fleet'", 2),
        (["--fleet", "many"], "expected field=value, got 'many'", 2),
    ],
)
def test_bad_input_gives_one_sentence(folder, arguments, sentence, code):
    answer = openwork(folder, "sweep", "fleets:kinds", *arguments, "--out", "bad", code=code)
    assert sentence in " ".join(answer.stderr.replace("│", " ").split())
    assert not (folder / "bad").exists()


def test_the_price_of_a_fleet_is_not_that_of_runs_alone(tmp_path):
    runs = [Run(Tiny(), PRUNE, steps=10, seed=seed) for seed in range(6)]
    execute_fleet(runs[:2], tmp_path, evaluations=2)
    execute(runs[2], tmp_path, evaluations=2)
    (alone,), (fleet,) = prices(runs, tmp_path), prices(runs, tmp_path, fleet=True)
    assert (alone.source, fleet.source) == ("1 finished run", "2 finished runs")
    assert alone.steps == fleet.steps == 30


def test_runs_that_cannot_be_stacked_are_priced_alone():
    runs = [Run(alonelab.Drawing(), PRUNE, steps=30, seed=seed) for seed in range(3)]
    milliseconds, source = fleet_step_ms(runs, torch.device("cpu"))
    assert (milliseconds > 0, source) == (True, "20 steps now")
