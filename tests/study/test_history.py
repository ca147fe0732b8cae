"""The history that a run keeps of its training: metrics and snapshots."""

import pytest
import torch
from safetensors.torch import load_file

import openwork as ow
from openwork.study.results.history import read_metrics, read_snapshots, snapshot_steps
from openwork.study.runs.execute import execute
from openwork.study.runs.run import Run
from openwork.study.tasks.lenet import DigitsLeNet300100

PRUNE = ow.GradualMagnitude(ow.Cubic(0.9, begin=10, end=50, every=10))
RUN = Run(DigitsLeNet300100(), PRUNE, steps=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of 60 steps with snapshots at 0, 20, 40 and 60."""
    directory = tmp_path_factory.mktemp("runs")
    execute(RUN, directory, evaluations=6, snapshots=3)
    return directory / RUN.id


def test_snapshots_are_the_initial_weights_and_evenly_spread_finalized_ones(folder):
    snapshots = read_snapshots(folder)
    assert [snapshot.step for snapshot in snapshots] == [0, 20, 40, 60]
    assert list(snapshots[0].shapes.items()) == [
        ("fc1.weight", (300, 64)), ("fc2.weight", (100, 300)), ("fc3.weight", (10, 100)),
    ]  # fmt: skip
    final = load_file(folder / "model.safetensors")
    assert all(torch.equal(snapshots[-1].weight(name), final[name]) for name in snapshots[-1].shapes)
    torch.manual_seed(RUN.seed)
    assert torch.equal(snapshots[0].weight("fc1.weight"), RUN.task.model().fc1.weight)


def test_every_evaluation_says_where_the_zeros_are(folder):
    rows = read_metrics(folder)
    assert [row.step for row in rows] == [10, 20, 30, 40, 50, 60]
    for row in rows:
        counts = {"fc1.weight": 19_200, "fc2.weight": 30_000, "fc3.weight": 1_000}
        zeros = sum(row.layers[name] * count for name, count in counts.items())
        assert zeros / 50_200 == pytest.approx(row.measured["sparsity"])
        assert row.measured["expected_density"] == pytest.approx(1 - row.measured["sparsity"])
    assert rows[-1].layers == {"fc1.weight": 0.9, "fc2.weight": 0.9, "fc3.weight": 0.9}


@pytest.mark.parametrize("technique", [PRUNE, ow.L0(ow.Constant(1e-3), dropout=0.5)], ids=lambda t: type(t).__name__)
def test_snapshots_change_nothing_and_survive_an_interruption(tmp_path, technique):
    class StopError(Exception):
        pass

    def stop(step):
        if step == 45:  # the last checkpoint is at 40
            raise StopError

    run = Run(DigitsLeNet300100(), technique, steps=60)
    plain = execute(run, tmp_path / "plain", evaluations=6)
    execute(run, tmp_path / "whole", evaluations=6, snapshots=3)
    with pytest.raises(StopError):
        execute(run, tmp_path / "stopped", evaluations=6, snapshots=3, progress=stop)
    stopped = execute(run, tmp_path / "stopped", evaluations=6, snapshots=3)
    assert (stopped.id, stopped.after) == (plain.id, plain.after)
    assert not (tmp_path / "plain" / run.id / "snapshots").exists()
    for name in ("0", "20", "40", "60"):
        files = [tmp_path / kind / run.id / "snapshots" / f"{name}.safetensors" for kind in ("whole", "stopped")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_snapshot_steps_by_hand():
    assert snapshot_steps(60, 10, 0) == set()
    assert snapshot_steps(60, 10, 6) == {0, 10, 20, 30, 40, 50, 60}
    assert snapshot_steps(60, 10, 4) == {0, 10, 30, 40, 60}  # 15 and 45 lie in the middle: the earlier one
    assert snapshot_steps(65, 20, 1) == {0, 65}
    for wrong in (-1, 7):
        with pytest.raises(ValueError, match=f"snapshots must be from 0 to the 6 evaluations, got {wrong}"):
            snapshot_steps(60, 10, wrong)


def test_damaged_files_are_named_with_their_cure(tmp_path):
    assert (read_metrics(tmp_path), read_snapshots(tmp_path)) == ([], [])
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st')
    with pytest.raises(ValueError, match=r"metrics.jsonl cannot be read .*delete the run's folder and train it again"):
        read_metrics(tmp_path)
    for row in ('{"epoch": 1}', "[1]", '{"step": "x"}', '{"step": 1e400}', '{"step": 1, "layers": {"fc": "x"}}'):
        (tmp_path / "metrics.jsonl").write_text(f"{row}\n")
        with pytest.raises(ValueError, match=r"metrics.jsonl has a row without a step"):
            read_metrics(tmp_path)
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "3.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"3.safetensors is not a snapshot of a run .*; delete it"):
        read_snapshots(tmp_path)
