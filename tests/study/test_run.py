import dataclasses
import io
import itertools
import json
import os
import signal
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import openwork as ow
from openwork.study.experiments.quickstart import runs as quickstart_runs
from openwork.study.results.history import read_metrics
from openwork.study.results.store import read_result
from openwork.study.runs import record
from openwork.study.runs.checkpoint import is_checkpoint
from openwork.study.runs.execute import execute
from openwork.study.runs.live import prepare, restore
from openwork.study.runs.run import Run
from openwork.study.tasks.lenet import DigitsLeNet300100, ImagesLeNet300100, MnistLeNet5Caffe, MnistLeNet300100
from tests.members import equal
from tests.processes import output_of, start

TASK = DigitsLeNet300100(peak_learning_rate=5e-3)
PRUNE = ow.GradualMagnitude(ow.Cubic(0.9, begin=20, end=80, every=10))
TECHNIQUES = [
    None,
    PRUNE,
    ow.RandomPruning(PRUNE.schedule),
    ow.VariationalDropout(ow.Constant(1e-4)),
    ow.L0(ow.Constant(1e-3), dropout=0.9),
]


def test_magnitude_pruning_learns_the_digits_and_records_everything(tmp_path):
    run = Run(TASK, PRUNE, steps=200)
    steps = []
    result = execute(run, tmp_path, evaluations=4, progress=steps.append)
    folder = tmp_path / run.id
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoint.pt", "metrics.jsonl", "model.safetensors", "result.json", "run.json",
    ]  # fmt: skip
    assert result == read_result(folder / "result.json")
    assert result.after["accuracy"] > 0.9
    assert result.before == result.after
    assert result.after["sparsity"] == result.sparsity == 0.9
    assert result.sparsity_all == (50_200 * 0.9 + 0) / 50_610
    assert [layer.nonzero for layer in result.layers] == [1920, 3000, 100]
    assert steps == list(range(1, 201))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [50, 100, 150, 200]
    assert [row["sparsity"] for row in rows][1:] == [
        0.9,
        0.9,
        0.9,
    ]
    tensors = load_file(folder / "model.safetensors")
    assert sum(int((t == 0).sum()) for name, t in tensors.items() if name.endswith("weight")) == 45_180
    assert (result.execution, result.environment.openwork) == ("simulated", ow.__version__)


def test_a_finished_run_is_not_repeated(tmp_path):
    run = Run(TASK, None, steps=5)
    execute(run, tmp_path)
    path = tmp_path / run.id / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "settings": "marked"}))
    assert execute(run, tmp_path).settings == "marked"


class TiedNetwork(nn.Module):
    """64 pixels through one matrix, forth and back, to 10 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.forth, self.back, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.back.weight = self.forth.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.back(torch.relu(self.forth(x.flatten(1))))))


@dataclasses.dataclass(frozen=True)
class Tied(DigitsLeNet300100):
    """The digits with tied weights."""

    def model(self) -> nn.Module:
        return TiedNetwork()


@pytest.mark.parametrize(
    "technique", [None, PRUNE, ow.L0(ow.Constant(1e-3), dropout=0.9)], ids=lambda t: type(t).__name__
)
def test_a_model_with_tied_weights_is_saved_with_all_its_keys(tmp_path, technique):
    run = Run(Tied(), technique, steps=90)
    result = execute(run, tmp_path)
    tensors = load_file(tmp_path / run.id / "model.safetensors")
    assert tensors.keys() == TiedNetwork().state_dict().keys()
    assert torch.equal(tensors["forth.weight"], tensors["back.weight"])
    assert [layer.name for layer in result.layers] == ["forth.weight", "head.weight"]
    assert ow.report(tmp_path / run.id / "model.safetensors").parameters == 64 * 64 + 64 * 10 + 64 + 64 + 10


def test_a_damaged_result_is_named_with_its_cure(tmp_path):
    run = Run(TASK, None, steps=5)
    execute(run, tmp_path)
    (tmp_path / run.id / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"result.json cannot be read .*only this run is repeated"):
        execute(run, tmp_path)


class StopError(Exception):
    """Raised in the middle of a run."""


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: type(t).__name__)
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, technique):
    run = Run(TASK, technique, steps=100, seed=3)
    whole = execute(run, tmp_path / "whole", evaluations=5)

    def stop(step):
        if step == 53:  # the last checkpoint is at 40
            raise StopError

    with pytest.raises(StopError):
        execute(run, tmp_path / "resumed", evaluations=5, progress=stop)
    torch.manual_seed(99)
    result = execute(run, tmp_path / "resumed", evaluations=5)
    assert result.after == whole.after
    tensors = [load_file(tmp_path / name / run.id / "model.safetensors") for name in ("whole", "resumed")]
    assert all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())
    rows = [(tmp_path / name / run.id / "metrics.jsonl").read_text().splitlines() for name in ("whole", "resumed")]
    same = [[{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines] for lines in rows]
    assert same[0] == same[1]
    assert len(same[0]) == 5


@pytest.mark.parametrize("step", [60, 100])
def test_a_run_that_dies_between_a_checkpoint_and_its_rows_lacks_none_in_the_end(step, tmp_path, monkeypatch):
    run = Run(TASK, PRUNE, steps=100)
    real = record.write_rows

    def write_rows(folder, rows):
        if rows[-1]["step"] == step:
            raise StopError
        real(folder, rows)

    with monkeypatch.context() as patch:
        patch.setattr(record, "write_rows", write_rows)
        with pytest.raises(StopError):
            execute(run, tmp_path, evaluations=5)
    assert read_metrics(tmp_path / run.id)[-1].step == step - 20
    execute(run, tmp_path, evaluations=5)
    assert [evaluation.step for evaluation in read_metrics(tmp_path / run.id)] == [20, 40, 60, 80, 100]


def test_kill_9_loses_no_finished_work(tmp_path):
    process = start("train_digits", tmp_path / "killed")
    while not list((tmp_path / "killed").glob("*/checkpoint.pt")):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list((tmp_path / "killed").glob("*/result.json"))
    resumed, whole = output_of(*(start("train_digits", tmp_path / name) for name in ("killed", "whole")))
    assert resumed == whole


def test_restore_rethresholds_variational_dropout(tmp_path):
    run = Run(TASK, ow.VariationalDropout(ow.Constant(1e-4)), steps=60)
    result = execute(run, tmp_path)
    folder = tmp_path / run.id
    sparsities = []
    for threshold in (-100.0, 1.0, 3.0, 100.0):
        live = restore(folder, settings=[f"technique.threshold={threshold}"])
        sparsities.append(live.sparsity())
    assert sparsities == sorted(sparsities, reverse=True)
    assert (sparsities[0], sparsities[3]) == (1.0, 0.0)
    assert sparsities[2] == result.after["sparsity"]
    assert is_checkpoint(folder / "checkpoint.pt")
    assert not is_checkpoint(folder / "model.safetensors")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_is_named_and_nothing_is_overwritten(tmp_path, content):
    run = Run(TASK, PRUNE, steps=20)
    execute(run, tmp_path)
    folder = tmp_path / run.id
    path = folder / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000] if content is None else content)
    with pytest.raises(ValueError, match=r"checkpoint.pt is not a readable torch checkpoint \("):
        restore(folder)
    (folder / "result.json").unlink()  # as if it had been interrupted
    model = (folder / "model.safetensors").read_bytes()
    cure = "delete that file, and the run is trained again from the beginning$"
    with pytest.raises(ValueError, match=rf"{path} is not a readable torch checkpoint \(.*; {cure}"):
        execute(run, tmp_path)
    assert (folder / "model.safetensors").read_bytes() == model
    path.unlink()
    assert execute(run, tmp_path).finished


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_run_whose_result_was_lost_is_measured_and_not_trained_again(tmp_path, technique):
    run = Run(TASK, technique, steps=100)
    whole = execute(run, tmp_path)
    checkpoint = torch.load(tmp_path / run.id / "checkpoint.pt", weights_only=True)
    (tmp_path / run.id / "result.json").unlink()
    steps: list[int] = []
    again = execute(run, tmp_path, progress=steps.append)
    assert not steps
    assert (again.before, again.after, again.layers, again.step) == (whole.before, whole.after, whole.layers, 100)
    assert again.cost.seconds == whole.cost.seconds
    equal(torch.load(tmp_path / run.id / "checkpoint.pt", weights_only=True), checkpoint)


def test_foreign_and_mixed_up_checkpoints_are_refused(tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match="is not a checkpoint of a run; `openwork inspect` reads other files"):
        restore(tmp_path / "foreign.pt")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*; give a run's directory or its checkpoint.pt"):
        restore(tmp_path)
    first, second = Run(TASK, PRUNE, steps=5), Run(TASK, PRUNE, steps=6)
    execute(first, tmp_path)
    (tmp_path / second.id).mkdir()
    os.rename(tmp_path / first.id / "checkpoint.pt", tmp_path / second.id / "checkpoint.pt")
    with pytest.raises(ValueError, match="belongs to another run; remove the folder to start"):
        execute(second, tmp_path)


def test_runs_of_different_seeds_draw_different_random_masks():
    masks = []
    for seed in (0, 0, 1):
        live = prepare(Run(TASK, ow.RandomPruning(ow.OneShot(0.5)), steps=1, seed=seed), torch.device("cpu"))
        masks.append(live.sparsifier.state_dict()["masks"]["fc1.weight"])
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_a_folder_of_parquet_images_is_a_task(tmp_path):
    for split, count in (("train", 60), ("test", 20)):
        labels = [i % 3 for i in range(count)]
        images = []
        for label in labels:
            buffer = io.BytesIO()
            Image.new("L", (5, 4), 80 * label).save(buffer, "PNG")
            images.append({"bytes": buffer.getvalue(), "path": None})
        pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / f"{split}.parquet")
    task = ImagesLeNet300100(source=str(tmp_path), batch_size=20)
    result = execute(Run(task, PRUNE, steps=100), tmp_path / "runs")
    assert result.task == f"LeNet-300-100, {tmp_path.name}"
    assert result.layers[0].shape == (300, 20)
    assert result.layers[2].shape == (3, 100)
    assert result.after["accuracy"] == 1.0


def test_a_run_needs_steps():
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        Run(TASK, None, steps=0)


def test_the_quickstart_compares_four_techniques_fairly():
    runs = quickstart_runs()
    assert len({run.id for run in runs}) == len(runs) == 65
    by_name = {name: list(group) for name, group in itertools.groupby(runs, key=lambda run: run.name)}
    assert {name: len(group) for name, group in by_name.items()} == {
        "dense": 5, "GradualMagnitude": 15, "RandomPruning": 15, "VariationalDropout": 15, "L0": 15,
    }  # fmt: skip
    assert len({run.steps for run in runs}) == 1
    assert {run.seed for run in runs} == {0, 1, 2, 3, 4}


def test_learning_rates_by_hand():
    task = MnistLeNet300100(peak_learning_rate=1e-3)
    assert [task.learning_rate(p) for p in (0, 0.5, 0.75)] == pytest.approx([1e-3, 1e-3, 5e-4])
    assert [MnistLeNet5Caffe().learning_rate(p) for p in (0, 0.5)] == pytest.approx([1e-3, 5e-4])


MNIST = Path(__file__).parents[2].parent / "shared" / "data" / "mnist"


@pytest.mark.slow
@pytest.mark.skipif(not MNIST.is_dir(), reason="MNIST is not at ../shared/data/mnist")
def test_magnitude_pruning_of_mnist_to_ninety_percent_costs_little(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENWORK_DATA", str(MNIST.parent))
    prune = ow.GradualMagnitude(ow.Cubic(0.9, begin=600, end=3600, every=60))
    dense, sparse = (execute(Run(MnistLeNet300100(), t, steps=6000), tmp_path).after for t in (None, prune))
    assert sparse["sparsity"] == 0.9
    assert dense["accuracy"] > 0.975
    assert sparse["accuracy"] > dense["accuracy"] - 0.003


@pytest.mark.slow
@pytest.mark.parametrize("technique", [PRUNE, ow.VariationalDropout(ow.Constant(1e-4))], ids=lambda t: type(t).__name__)
def test_a_compiled_run_learns_as_well(tmp_path, technique):
    run = Run(TASK, technique, steps=150)
    plain = execute(run, tmp_path / "eager").after
    compiled = execute(run, tmp_path / "compiled", compile=True).after
    assert abs(compiled["accuracy"] - plain["accuracy"]) < 0.03
    assert abs(compiled["sparsity"] - plain["sparsity"]) < 0.03
