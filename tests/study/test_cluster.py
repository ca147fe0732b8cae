"""Sweeps on a real Ray, started once for all of these tests."""

import importlib
import os
import shutil
from pathlib import Path

import pytest

from openwork.study.files import WriteError
from openwork.study.results.store import failures, read_result, read_results
from openwork.study.runs.config import to_plain
from openwork.study.runs.execute import execute
from openwork.study.runs.origin import Pretrained
from openwork.study.runs.run import Run
from openwork.study.sweeps.sweep import CRASHES, Options, sweep
from tests.processes import ROOT
from tests.study import tinylab
from tests.study.tinylab import PRUNE, Diverging, Dying, Failing, Tiny, grid

pytest.importorskip("ray", reason='ray is not installed: pip install "openwork[cluster]"')

from openwork.study.sweeps.cluster import Ray, _attempt

OPTIONS = Options(evaluations=2)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep on Ray with everything in it; its directory, and the engine, which is still up."""
    directory = tmp_path_factory.mktemp("ray")
    marks = str(directory.parent)
    start = Run(Dying(folder=marks), PRUNE, steps=20)
    runs = [
        *grid(),
        Run(Tiny(), None, steps=3, origin=Pretrained(start)),
        Run(Failing(), None, steps=4),
        Run(Diverging(), None, steps=4),
        Run(Dying(folder=marks, times=CRASHES), None, steps=4),
    ]
    here = os.getcwd()
    os.chdir(ROOT)  # where the user's module, tests.study.tinylab, is
    try:
        with Ray("local", directory, OPTIONS, cpus=1) as engine:
            yield sweep(runs, directory, engine), runs, engine
    finally:
        os.chdir(here)


def test_all_that_can_finish_does_and_the_rest_is_recorded(swept):
    ended, runs, _ = swept
    assert [ended.count(state) for state in ("finished", "diverged", "failed")] == [14, 1, 2]
    assert {result.id for result in read_results(ended.directory)} == {
        id for id, outcome in ended.outcomes.items() if outcome.state != "failed"
    }
    assert ended.outcomes[runs[-3].id].reason == "RuntimeError: the loss is wrong"


def test_a_run_whose_worker_is_killed_is_trained_by_another(swept):
    ended, runs, _ = swept
    assert (Path(runs[12].origin.run.task.folder) / "died-1-0").exists()
    assert ended.outcomes[runs[12].origin.run.id].state == "finished"
    assert ended.outcomes[runs[12].id].state == "finished"


def test_a_run_that_kills_every_worker_has_failed(swept):
    ended, runs, _ = swept
    assert failures(ended.directory)[runs[-1].id]["error"].startswith("its process died 3 times: WorkerCrashedError")


def test_results_are_those_of_this_process_and_workers_use_the_cpus_they_were_given(swept, tmp_path):
    ended, runs, _ = swept
    for run in (runs[0], runs[6]):
        there, here = read_result(ended.directory / run.id / "result.json"), execute(run, tmp_path, evaluations=2)
        for computed in ("after", "sparsity", "sparsity_all", "layers"):
            assert getattr(there, computed) == getattr(here, computed)
        assert there.environment.threads == 1


def test_what_no_worker_can_import_stops_the_sweep(swept, tmp_path, monkeypatch):
    ended, _, engine = swept
    shutil.copy(tinylab.__file__, tmp_path / "elsewhere.py")
    monkeypatch.syspath_prepend(tmp_path)  # in this process alone: workers look where the sweep was started
    runs = [Run(importlib.import_module("elsewhere").Tiny(), None, steps=4)]
    with pytest.raises(ValueError, match="there is no module 'elsewhere'"):
        sweep(runs, ended.directory, engine)
    assert not (ended.directory / runs[0].id).exists()


def test_a_folder_that_a_worker_cannot_write_to_stops_the_sweep_in_one_sentence(swept):
    ended, _, engine = swept
    run = Run(Tiny(), None, steps=5)
    (ended.directory / run.id).touch()  # a file where the run's directory should be
    with pytest.raises(WriteError, match=rf"^\[Errno 17\] File exists: '.*{run.id}'$"):
        sweep([run], ended.directory, engine)
    (ended.directory / run.id).unlink()


def test_code_that_differs_on_a_worker_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"run 0123 is run [0-9a-f]{16} on .*: is the code there another"):
        _attempt({"0123": to_plain(grid()[0])}, tmp_path, OPTIONS, 1, str(ROOT), None, {})
