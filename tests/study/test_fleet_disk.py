"""A disk that is full while the results of a fleet are written loses nothing that was."""

from pathlib import Path

import pytest

from openwork.study.files import WriteError
from openwork.study.fleet import fleet
from openwork.study.fleet.execute import execute_fleet
from openwork.study.fleet.training import Training
from openwork.study.runs import record as run_record
from openwork.study.runs.live import restore
from tests.members import equal
from tests.study.test_fleet_alone import widths
from tests.study.test_fleet_faults import RUNS, swept, weights


@pytest.fixture(autouse=True)
def _checkpoints_at_every_evaluation(monkeypatch):
    monkeypatch.setattr(fleet, "CHECKPOINT_SECONDS", 0.0)


def test_a_result_that_cannot_be_written_stops_the_fleet_and_those_written_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(fleet, "COPIES", 1)  # each is recorded while the next one is measured
    real = fleet.record

    def record(live, *arguments, **settings):
        if live.run == RUNS[1]:
            raise WriteError(28, "No space left on device", "result.json")
        return real(live, *arguments, **settings)

    monkeypatch.setattr(fleet, "record", record)
    with pytest.raises(WriteError, match="No space left"):
        swept(RUNS, tmp_path)
    assert [(tmp_path / run.id / "result.json").exists() for run in RUNS[:2]] == [True, False]
    monkeypatch.setattr(fleet, "record", real)
    assert len(widths(swept(RUNS, tmp_path)[0])) == len(RUNS)


@pytest.mark.parametrize("kept", [(), (10,)], ids=["no checkpoint", "an early checkpoint"])
@pytest.mark.parametrize("full", ["checkpoint.pt", "result.json"])
def test_a_finished_run_has_its_checkpoint_whatever_could_not_be_written(full, kept, tmp_path, monkeypatch):
    save = fleet.Fleet._save
    monkeypatch.setattr(fleet.Fleet, "_save", lambda self: save(self) if self.training.done in kept else None)
    execute_fleet(RUNS, tmp_path / "whole", evaluations=2)
    writers = {"checkpoint.pt": "write_atomically", "result.json": "write_text"}
    real, finish = getattr(run_record, writers[full]), fleet.Fleet._finish

    def write(path: Path, content: object) -> None:
        if path.name == full and path.parent.name in {RUNS[1].id, RUNS[2].id} and training_is_over:
            raise WriteError(28, "No space left on device", full)
        real(path, content)

    training_is_over: list[bool] = []
    with monkeypatch.context() as patch:
        patch.setattr(run_record, writers[full], write)
        patch.setattr(fleet.Fleet, "_finish", lambda self: training_is_over.append(True) or finish(self))
        with pytest.raises(WriteError, match="No space left"):
            swept(RUNS, tmp_path)
    for run in RUNS:
        if (tmp_path / run.id / "result.json").exists():
            found, whole = (restore(folder / run.id, trusted=("tests",)) for folder in (tmp_path, tmp_path / "whole"))
            equal(found.model.state_dict(), whole.model.state_dict())
    trained: set[str] = set()
    step = Training.step

    def stepped(self: Training, batch: object):
        trained.update(live.run.id for live in self.stack.lives)
        return step(self, batch)

    monkeypatch.setattr(Training, "step", stepped)
    assert widths(swept(RUNS, tmp_path)[0])
    assert trained == (set() if full == "result.json" else {RUNS[1].id, RUNS[2].id})  # what was kept is not lost
    assert weights(RUNS, tmp_path) == weights(RUNS, tmp_path / "whole")
    assert all((tmp_path / run.id / "checkpoint.pt").exists() for run in RUNS)


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, [5, 10, 15]), (6.0, [5, 10, 15]), (60.0, [5])])
def test_ten_times_as_long_as_checkpoints_took_lies_between_two(seconds, expected, tmp_path, monkeypatch):
    clock, saved = [0.0], []

    def save(self: fleet.Fleet) -> None:
        saved.append(self.training.done)
        clock[0] += seconds

    def progress(steps: int) -> None:
        clock[0] += 13.0

    monkeypatch.setattr(fleet, "CHECKPOINT_SECONDS", 60.0)
    monkeypatch.setattr(fleet.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(fleet.Fleet, "_save", save)
    execute_fleet(RUNS, tmp_path, evaluations=4, progress=progress)
    assert saved == expected
