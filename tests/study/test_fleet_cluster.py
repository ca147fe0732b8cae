"""Fleets on a real Ray, started once for all of these tests."""

import os
from collections import Counter

import pytest

from openwork.study.results.store import failures
from openwork.study.runs.run import Run
from openwork.study.sweeps.sweep import Options, sweep
from tests.processes import ROOT
from tests.study import alonelab, faultlab
from tests.study.test_fleet_alone import widths
from tests.study.tinylab import PRUNE, Tiny, grid

pytest.importorskip("ray", reason='ray is not installed: pip install "openwork[cluster]"')

from openwork.study.sweeps.cluster import Ray


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep in fleets of four; its runs, and what it said."""
    directory = tmp_path_factory.mktemp("ray")
    runs = [
        *grid(),
        *(Run(alonelab.Drawing(), PRUNE, steps=8, seed=seed) for seed in range(2)),
        *(Run(faultlab.DyingBySeed(), PRUNE, steps=8, seed=seed) for seed in range(3)),
    ]
    said: list[str] = []
    here = os.getcwd()
    os.chdir(ROOT)  # where the user's modules, of tests.study, are
    try:
        with Ray("local", directory, Options(evaluations=2), cpus=1, fleet=4, say=said.append) as engine:
            engine._parallel = lambda: 1  # several that are idle at one time would divide a group among them
            yield sweep(runs, directory, engine), runs, said
    finally:
        os.chdir(here)


def test_runs_that_are_alike_are_trained_as_fleets(swept):
    ended, runs, _ = swept
    found = [ended.outcomes[run.id].result.environment.fleet for run in runs[:12]]
    assert {ended.outcomes[run.id].state for run in runs[:12]} == {"finished"}
    assert Counter(found) == {4: 8, 2: 4}  # of twice six that are alike


@pytest.mark.parametrize(("count", "fleets"), [(12, [4, 4]), (6, [3, 3]), (5, [3, 2]), (2, [1, 1]), (1, [1])])
def test_devices_that_are_idle_divide_a_group(count, fleets, tmp_path, monkeypatch):
    engine, started = Ray("local", tmp_path, Options(), fleet=4), []

    def start(runs):
        started.append(len(runs))
        engine._tasks[len(started)] = runs

    monkeypatch.setattr(engine, "_parallel", lambda: 2)
    monkeypatch.setattr(engine, "_start", start)
    for seed in range(count):
        engine.submit(Run(Tiny(), PRUNE, steps=20, seed=seed))
    engine._start_fleets()
    assert started == fleets


def test_runs_that_cannot_be_stacked_are_said_and_trained_alone(swept):
    ended, runs, said = swept
    assert [ended.outcomes[run.id].state for run in runs[12:14]] == ["finished"] * 2
    assert [ended.outcomes[run.id].result.environment.fleet for run in runs[12:14]] == [None, None]
    assert any("trained one by one: RuntimeError: vmap: called random operation" in sentence for sentence in said)


def test_a_run_that_kills_its_worker_takes_no_other_along(swept):
    ended, runs, said = swept
    assert [ended.outcomes[run.id].state for run in runs[14:]] == ["finished", "failed", "finished"]
    assert "its process died 3 times" in failures(ended.directory)[runs[15].id]["error"]
    assert len(widths(ended)) == len(runs) - 1
    assert any("one by one: WorkerCrashedError" in sentence for sentence in said)
