"""Where a machine has too little of something, a fleet is narrower, and loses nothing."""

import pytest
import torch

from openwork.study.fleet import execute as fleet_execute
from openwork.study.fleet import fleet, memory
from openwork.study.fleet.execute import CannotStackError, execute_fleet
from openwork.study.fleet.training import Training
from openwork.study.runs.live import prepare
from openwork.study.runs.run import Run
from tests.processes import run as run_program
from tests.study.test_fleet_alone import widths
from tests.study.test_fleet_faults import RUNS, swept


def test_a_fleet_that_does_not_fit_is_halved(tmp_path, monkeypatch):
    real = Training.step

    def step(self: Training, batch: object):
        if len(self.stack.each) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, batch)

    monkeypatch.setattr(Training, "step", step)
    ended, said = swept(RUNS, tmp_path)
    assert widths(ended) == [2, 2, 2, 2]
    assert not said


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), MemoryError(), RuntimeError("can't allocate memory")]
)
def test_a_fleet_whose_stack_does_not_fit_is_halved(error, tmp_path, monkeypatch):
    class Small(fleet.Fleet):
        def __init__(self, members, **settings):
            if len(members) > 2:
                raise error
            super().__init__(members, **settings)

    monkeypatch.setattr(fleet_execute, "Fleet", Small)
    assert widths(swept(RUNS, tmp_path)[0]) == [2, 2, 2, 2]


def test_models_that_do_not_fit_beside_the_others_are_left_for_the_next_fleet(tmp_path, monkeypatch):
    made: list[str] = []
    real = fleet_execute.begin

    def begin(run: Run, *arguments: object):
        made.append(run.id)
        if len(made) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(run, *arguments)

    monkeypatch.setattr(fleet_execute, "begin", begin)
    assert widths(swept(RUNS, tmp_path)[0]) == [2, 2, 2, 2]


def test_the_memory_decides_how_many_runs_are_stacked(tmp_path, monkeypatch):
    needed = memory.bytes_of_a_run(prepare(RUNS[0], torch.device("cpu")))
    monkeypatch.setattr(memory, "free_bytes", lambda _: int(3.5 * needed / memory.SHARE))
    assert sorted(map(str, widths(swept(RUNS, tmp_path)[0]))) == ["3", "3", "3", "None"]


def test_a_device_that_is_too_small_for_one_run_says_so_and_the_runs_are_tried_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1)
    ended, (sentence,) = swept(RUNS, tmp_path)
    assert widths(ended) == [None] * 4
    assert "tiny needs about 0 MB for a run and cpu has 0 MB free" in sentence


def test_a_system_that_does_not_say_what_is_free_takes_a_width(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda _: None)
    with pytest.raises(CannotStackError, match="does not say how much memory is free; give the number of runs, as"):
        execute_fleet(RUNS, tmp_path)
    assert widths(swept(RUNS, tmp_path, width=4)[0]) == [4, 4, 4, 4]


@pytest.mark.parametrize(
    ("hard", "opened", "claims"),
    [(24, 6, 1), (32, 6, 2), (64, 6, 32), (64, 30, 10), (256, 6, 128), (1024, 6, 768), (1_048_576, 6, 1_048_320)],
)
def test_as_many_runs_are_claimed_as_files_may_be_open(hard, opened, claims, monkeypatch):
    monkeypatch.setattr(fleet_execute.resource, "getrlimit", lambda _: (hard, hard))
    monkeypatch.setattr(fleet_execute, "_open_files", lambda: opened)
    assert fleet_execute._claims() == claims


@pytest.mark.parametrize(("more", "width"), [(14, 1), (30, 6)])
def test_a_fleet_is_as_narrow_as_the_limit_of_open_files_wants_it(more, width, tmp_path):
    widths = [int(line) for line in run_program("fleet_with_few_files", tmp_path, more).split()]
    assert len(widths) == 16
    assert max(widths) == width


def test_a_limit_that_may_not_be_raised_is_kept(monkeypatch):
    def refuse(*_: object) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(fleet_execute.resource, "getrlimit", lambda _: (256, fleet_execute.resource.RLIM_INFINITY))
    monkeypatch.setattr(fleet_execute.resource, "setrlimit", refuse)
    assert fleet_execute._claims() == 128
