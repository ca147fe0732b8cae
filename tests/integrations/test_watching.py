"""The numbers of runs in TensorBoard's event files and in Weights & Biases."""

import errno
import importlib
import sys
from types import SimpleNamespace

import pytest

ROWS = [(10, {"accuracy": 0.5, "layers/fc1": 0.25}), (20, {"accuracy": 0.75})]


def test_tensorboard_reads_what_is_written_and_what_is_added(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from openwork.integrations.tensorboard import write_run

    write_run(tmp_path / "a", ROWS[:1], {"id": "0123"})
    write_run(tmp_path / "a", ROWS[1:], {})
    found = EventAccumulator(str(tmp_path / "a")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("accuracy")] == [(10, 0.5), (20, 0.75)]
    assert [(event.step, event.value) for event in found.Scalars("layers/fc1")] == [(10, 0.25)]


def test_a_full_disk_leaves_no_rows_that_would_be_there_twice(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.summary.writer.record_writer import RecordWriter

    from openwork.integrations.tensorboard import write_run

    folder, left, write = tmp_path / "a", [2], RecordWriter.write

    def full(self, data):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, data)

    write_run(folder, ROWS[:1], {})
    with monkeypatch.context() as patch:
        patch.setattr(RecordWriter, "write", full)
        with pytest.raises(OSError, match="No space left") as stopped:
            write_run(folder, ROWS[1:], {"id": "0123"})
    assert stopped.value.filename == str(folder)
    assert "Traceback" not in capsys.readouterr().err
    write_run(folder, ROWS[1:], {"id": "0123"})
    found = EventAccumulator(str(folder)).Reload()
    assert [(event.step, event.value) for event in found.Scalars("accuracy")] == [(10, 0.5), (20, 0.75)]
    assert len([*folder.iterdir()]) == 2


class FakeRun:
    """What `wandb.init` returns, as far as openwork uses it."""

    def __init__(self, log):
        self.log = lambda numbers, step: log.append((step, numbers))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def test_wandb_gets_one_run_with_its_id_name_and_steps(tmp_path, monkeypatch):
    begun, logged = [], []

    def init(**settings):
        begun.append(settings)
        return FakeRun(logged)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    monkeypatch.delitem(sys.modules, "openwork.integrations.wandb", raising=False)
    write_run = importlib.import_module("openwork.integrations.wandb").write_run
    write_run(tmp_path / "0123", ROWS, {"name": "first", "task": "digits"}, project="sparse")
    monkeypatch.delitem(sys.modules, "openwork.integrations.wandb")
    (one,) = begun
    assert (one["project"], one["id"], one["name"], one["resume"]) == ("sparse", "0123", "first", "allow")
    assert one["config"] == {"name": "first", "task": "digits"}
    assert logged == ROWS
    assert (tmp_path / "0123").is_dir()
