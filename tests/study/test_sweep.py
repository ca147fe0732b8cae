"""Sweeps in this process; those on Ray are in test_cluster.py, and the command is in test_sweep_command.py."""

import dataclasses
import importlib
import json
import sys

import pytest
import torch

from openwork.study.files import WriteError
from openwork.study.results.folders import read_folders
from openwork.study.results.store import failures, read_results
from openwork.study.runs.claim import ClaimedError, claim
from openwork.study.runs.config import from_plain, packages, to_plain
from openwork.study.runs.execute import execute
from openwork.study.runs.origin import Pretrained
from openwork.study.runs.run import Run
from openwork.study.sweeps import sweep as module
from openwork.study.sweeps.outcome import Outcome
from openwork.study.sweeps.price import fleet_step_ms, prices, run_step_ms
from openwork.study.sweeps.sweep import Here, Options, sweep
from tests.processes import run as run_program
from tests.study.tinylab import PRUNE, Diverging, Failing, Tiny, grid, mixed

OPTIONS = Options(evaluations=2)


@pytest.fixture
def journal(tmp_path, monkeypatch):
    """What reads the seeds of all attempts so far."""
    path = tmp_path / "journal"
    monkeypatch.setenv("JOURNAL", str(path))
    return lambda: [int(line.split()[0]) for line in path.read_text().splitlines()]


def test_each_run_is_trained_once_and_a_second_sweep_trains_nothing(tmp_path, journal):
    first = sweep(grid(), tmp_path / "runs", Here(tmp_path / "runs", OPTIONS))
    assert first.count("finished") == 12
    assert sorted(journal()) == sorted(2 * [*range(6)])
    again = sweep([*grid(), *grid()], tmp_path / "runs", Here(tmp_path / "runs", OPTIONS))
    assert again.outcomes == first.outcomes
    assert len(journal()) == 12
    assert {result.id for result in read_results(tmp_path / "runs")} == {run.id for run in grid()}


def test_a_sweep_removes_the_locks_that_killed_processes_left_beside_results_and_no_other(tmp_path):
    runs = grid()[:3]
    sweep(runs, tmp_path, Here(tmp_path, OPTIONS))
    locks = [tmp_path / run.id / "lock" for run in runs]
    locks[0].write_text("process 1 on another-machine\n")
    with claim(tmp_path / runs[1].id):  # by who has just written the result
        sweep(runs, tmp_path, Here(tmp_path, OPTIONS))
        assert [lock.exists() for lock in locks] == [False, True, False]
        with pytest.raises(ClaimedError), claim(tmp_path / runs[1].id):
            pass


def test_failures_and_divergence_end_a_run_and_what_starts_from_it_but_not_the_sweep(tmp_path):
    runs = mixed()
    ended = sweep(runs, tmp_path, Here(tmp_path, OPTIONS))
    assert [ended.outcomes[run.origin.run.id].state for run in runs] == ["finished", "failed", "diverged"]
    assert [ended.outcomes[run.id].state for run in runs] == ["finished", "failed", "failed"]
    assert ended.outcomes[runs[1].origin.run.id].reason == "RuntimeError: the loss is wrong"
    assert ended.outcomes[runs[1].id].reason == f"it needs run {runs[1].origin.run.id}, which failed"
    assert ended.outcomes[runs[2].id].reason == f"it needs run {runs[2].origin.run.id}, which diverged"
    recorded = failures(tmp_path)
    assert recorded.keys() == {runs[1].origin.run.id, runs[1].id, runs[2].id}
    assert {folder.id for folder in read_folders(tmp_path) if folder.state == "failed"} == recorded.keys()
    found = next(folder for folder in read_folders(tmp_path) if folder.id == runs[2].id)
    assert (found.technique, found.seed, found.steps) == ("GradualMagnitude", 0, 20)  # though it never began
    failure = recorded[runs[1].origin.run.id]
    assert failure["attempt"] == 1
    assert "in loss" in failure["traceback"]
    assert sweep(runs, tmp_path, Here(tmp_path, OPTIONS)).outcomes == ended.outcomes
    assert failures(tmp_path) == recorded  # not tried again


def test_failed_runs_are_tried_again_when_asked_for(tmp_path):
    start = Run(Failing(unless=str(tmp_path / "repaired")), None, steps=4)
    run = Run(Tiny(), PRUNE, steps=20, origin=Pretrained(start))
    runs = tmp_path / "runs"
    for attempt in (1, 2):
        ended = sweep([run], runs, Here(runs, OPTIONS), retry_failed=True)
        assert ended.count("failed") == 2
        assert [failure["attempt"] for failure in failures(runs).values()] == [attempt, attempt]
    (tmp_path / "repaired").touch()
    assert sweep([run], runs, Here(runs, OPTIONS)).count("failed") == 2
    assert sweep([run], runs, Here(runs, OPTIONS), retry_failed=True).count("finished") == 2
    assert not list(runs.glob("*/failed.json"))


def test_the_best_run_and_the_steps_are_known_on_the_way(tmp_path):
    seen = []
    runs = [*grid()[5:7], Run(Diverging(), None, steps=10)]
    sweep(
        runs,
        tmp_path,
        Here(tmp_path, OPTIONS),
        watch=lambda s: seen.append((*s.steps(), s.best() and s.best().name)),
    )
    # A diverged run has done the 5 steps to its first evaluation.
    assert seen == [(0, 50, None), (20, 30, "dense"), (40, 10, "GradualMagnitude"), (45, 0, "GradualMagnitude")]


class Scripted:
    """An engine that answers each attempt at a run with the next of its outcomes, and notes the attempts."""

    def __init__(self, outcomes):
        self.outcomes, self.submitted, self.attempts = {k: [*v] for k, v in outcomes.items()}, [], []

    def slots(self):
        return 1

    def submit(self, run, failures):
        self.submitted.append(run)
        self.attempts.append(run.seed)

    def wait(self):
        ended, self.submitted = self.submitted, []
        return [(run, self.outcomes[run.seed].pop(0)) for run in ended]


CRASHED, CLAIMED = Outcome("crashed", reason="killed"), Outcome("claimed")
DONE = Outcome("finished", {"step": 20, "name": "dense", "after": {"accuracy": 1}})


def test_a_run_whose_process_keeps_dying_has_failed_and_the_others_go_on(tmp_path):
    engine = Scripted({0: 3 * [CRASHED], 1: [CRASHED, CRASHED, DONE]})
    ended = sweep(grid()[:2], tmp_path, engine)
    assert engine.attempts == [0, 1, 0, 1, 0, 1]
    assert [outcome.state for outcome in ended.outcomes.values()] == ["failed", "finished"]
    assert failures(tmp_path)[grid()[0].id]["error"] == "its process died 3 times: killed"


def test_deaths_are_counted_from_the_last_checkpoint_on(tmp_path):
    run = grid()[0]
    (tmp_path / run.id).mkdir()

    class Advancing(Scripted):
        def submit(self, run, failures):
            super().submit(run, failures)
            if len(self.attempts) == 3:
                (tmp_path / run.id / "metrics.jsonl").write_text('{"step": 10}\n')

    engine = Advancing({0: [*4 * [CRASHED], DONE]})
    assert sweep([run], tmp_path, engine).count("finished") == 1
    assert len(engine.attempts) == 5


def test_a_run_that_another_process_trains_is_looked_at_again_after_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CLAIMED_SECONDS", 0.01)
    engine = Scripted({0: [CLAIMED, CLAIMED, DONE], 1: [DONE]})
    assert sweep(grid()[:2], tmp_path, engine).count("finished") == 2
    assert engine.attempts[:2] == [0, 1]


def test_a_full_disk_stops_the_sweep_and_a_later_one_goes_on(tmp_path):
    assert run_program("sweep_on_full_disk", tmp_path).startswith("WriteError")
    assert len(read_results(tmp_path)) == 2
    assert not failures(tmp_path)  # it is not the run's fault
    assert not list(tmp_path.glob("*/.*"))
    before = {result.id: result for result in read_results(tmp_path)}
    ended = sweep(grid(), tmp_path, Here(tmp_path, OPTIONS))
    assert ended.count("finished") == 12
    assert {result.id: result for result in read_results(tmp_path) if result.id in before} == before


def test_what_a_killed_writer_left_is_removed(tmp_path):
    run = grid()[0]
    (tmp_path / run.id).mkdir()
    (tmp_path / run.id / ".checkpoint.pt.a1b2c3d4").write_text("half")
    execute(run, tmp_path)
    assert not list((tmp_path / run.id).glob(".*"))


def test_a_run_travels_as_json_with_the_packages_it_names():
    for run in mixed():
        plain = json.loads(json.dumps(to_plain(run)))
        assert packages(plain) == {"tests"}
        assert from_plain(plain, packages(plain)) == run


def test_a_price_is_the_steps_left_times_the_median_of_finished_runs(tmp_path):
    runs = grid()
    sweep(runs[:7], tmp_path, Here(tmp_path, OPTIONS))
    for number, run in enumerate(runs[:3]):
        path = tmp_path / run.id / "result.json"
        result = json.loads(path.read_text())
        path.write_text(json.dumps({**result, "cost": {**result["cost"], "step_ms": 1000.0 * number}}))
    for run in runs[3:6]:
        (tmp_path / run.id / "result.json").unlink()  # interrupted after 10 steps, its last checkpoint but one
        (tmp_path / run.id / "metrics.jsonl").write_text('{"step": 10}\n')
    dense, pruned = prices([*runs, dataclasses.replace(runs[0], seed=99)], tmp_path)
    assert dense.states == {"finished": 3, "interrupted": 3, "new": 1}
    assert (dense.steps, dense.step_ms, dense.source) == (3 * 10 + 20, 1000.0, "3 finished runs")
    assert dense.hours == pytest.approx(50 / 3600)
    assert (pruned.states, pruned.steps) == ({"finished": 1, "new": 5}, 100)


def test_without_a_finished_run_a_step_is_measured_or_has_no_price(tmp_path):
    runs = mixed()
    measured = prices(runs[:1], tmp_path, measure=lambda left: (10.0 * left[0].steps, f"{len(left)} now"))
    assert [(p.name, p.steps, p.step_ms, p.source) for p in measured] == [
        ("dense", 3, 30.0, "1 now"), ("GradualMagnitude", 20, 200.0, "1 now"),
    ]  # fmt: skip
    assert [p.hours for p in prices(runs[:1], tmp_path / "nothing")] == [None, None]
    cpu = torch.device("cpu")
    time, source = run_step_ms(runs, cpu)
    assert (time > 0, source) == (True, "20 steps now")
    assert run_step_ms([runs[0].origin.run], cpu)[0] > 0  # fewer steps than the warm-up has
    alike = [dataclasses.replace(runs[0], seed=seed) for seed in range(3)]
    time, source = fleet_step_ms([*alike, runs[0].origin.run], cpu, 2)
    assert (time > 0, source) == (True, "20 steps of 2 runs now")
    assert not list(tmp_path.iterdir())


def test_a_failed_run_has_a_price_only_when_it_is_tried_again(tmp_path):
    runs = [Run(Failing(), None, steps=4)]
    sweep(runs, tmp_path, Here(tmp_path, OPTIONS))
    assert [price.steps for price in prices(runs, tmp_path)] == [0]
    assert [price.steps for price in prices(runs, tmp_path, retry_failed=True)] == [4]


def test_a_write_error_says_the_file_and_what_the_system_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"Not a directory.*file"):
        execute(grid()[0], tmp_path / "file")


def test_a_missing_ray_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # importing it raises ImportError
    monkeypatch.delitem(sys.modules, "openwork.study.sweeps.cluster", raising=False)
    with pytest.raises(ImportError, match=r'pip install "openwork\[cluster\]"'):
        importlib.import_module("openwork.study.sweeps.cluster")
