"""Convolutions, batch norms, dropout, origins, snapshots and held-out images: in a fleet as alone."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import openwork as ow
from openwork.study.data.images import Images
from openwork.study.data.splits import Splits
from openwork.study.fleet import fleet
from openwork.study.fleet.execute import execute_fleet
from openwork.study.results.store import read_result
from openwork.study.runs.execute import execute
from openwork.study.runs.live import prepare
from openwork.study.runs.origin import LotteryTicket, Origin, Pretrained, Rewound, Scratch
from openwork.study.runs.run import Run
from openwork.study.sweeps.sweep import Sweep
from openwork.study.tasks import cifar10, lenet
from openwork.study.tasks.cifar10 import Cifar10Vgg, Cifar10WideResNet
from openwork.study.tasks.lenet import DigitsLeNet300100, MnistLeNet5Caffe
from tests.study.test_fleet_alone import both, widths
from tests.study.test_fleet_faults import until

DIGITS = DigitsLeNet300100(peak_learning_rate=1e-2, batch_size=32)
ONCE = ow.GradualMagnitude(ow.OneShot(0.8, at=2))
VARIATIONAL = ow.VariationalDropout(ow.Constant(1e-3))
L0 = ow.L0(ow.Constant(1e-4))


UNSTEADY = "conv.bias", "fc1.bias", "running_mean"
"""Of a VGG: the gradient of a bias before a batch norm is 0 up to rounding, and Adam moves it by its whole rate."""


def splits(*shape: int) -> Splits:
    """Noise, brighter where the label is 1."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    images = torch.randn(40, *shape, generator=generator) + labels.view(-1, *[1] * len(shape))
    data = [Images(images[part], labels[part]) for part in (slice(24), slice(24, 32), slice(32, 40))]
    return Splits(*data)


def execute_all(runs: list[Run], folder: Path, **options: Any) -> None:
    """Trains each run alone."""
    for run in runs:
        execute(run, folder, **options)


def assert_near(run: Run, ours: Path, theirs: Path, rtol: float) -> None:
    """Compares the way that the weights of a run have gone, in all their space."""
    weights, expected = (load_file(folder / "model.safetensors") for folder in (ours, theirs))
    parameters = dict(prepare(run, torch.device("cpu")).model.named_parameters())
    names = [name for name in expected if name in parameters and not name.endswith(UNSTEADY)]
    far = math.hypot(*(float((weights[name] - expected[name]).norm()) for name in names))
    way = math.hypot(*(float((expected[name] - parameters[name].detach()).norm()) for name in names))
    assert far <= rtol * way


def compare(runs: list[Run], folder: Path, *, steps: int, rtol: float = 1e-3, **options: int) -> None:
    """Trains the runs together and alone, and compares all that is kept of them."""
    found = execute_fleet(runs, folder / "together", evaluations=2, **options)
    for run in runs:
        assert found[run.id].environment.fleet == len(runs), found[run.id]
        execute(run, folder / "alone", evaluations=2, **options)
        ours, theirs = (folder / where / run.id for where in ("together", "alone"))
        assert {path.name for path in ours.rglob("*")} == {path.name for path in theirs.rglob("*")}
        for path in ours.rglob("*.safetensors"):
            weights, expected = load_file(path), load_file(theirs / path.relative_to(ours))
            assert weights.keys() == expected.keys()
            for name, tensor in expected.items():
                assert torch.equal(weights[name] == 0, tensor == 0) or name.endswith(UNSTEADY), name
        assert_near(run, ours, theirs, rtol)
        result, wanted = (read_result(path / "result.json") for path in (ours, theirs))
        assert [layer.nonzero for layer in result.layers] == [layer.nonzero for layer in wanted.layers]
        assert result.after["loss"] == pytest.approx(wanted.after["loss"], rel=1e-2)
        assert (result.status, result.judged_on, result.watched_on) == (
            wanted.status,
            wanted.judged_on,
            wanted.watched_on,
        )
        rows, others = (
            [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()] for path in (ours, theirs)
        )
        assert [(row["step"], row.keys()) for row in rows] == [(row["step"], row.keys()) for row in others]
        assert rows[-1]["step"] == steps


@pytest.mark.parametrize("technique", [None, ONCE, VARIATIONAL, L0], ids=str)
def test_lenet5_in_a_fleet_is_lenet5_alone(technique, tmp_path, monkeypatch):
    monkeypatch.setattr(lenet, "_mnist", lambda *_: splits(1, 28, 28))
    task = MnistLeNet5Caffe(batch_size=8, peak_learning_rate=1e-3)
    compare([Run(task, technique, 4, seed) for seed in range(2)], tmp_path, steps=4)


@pytest.mark.parametrize("technique", [None, ONCE, VARIATIONAL], ids=str)
def test_a_vgg_with_batch_norm_and_dropout_in_a_fleet_is_the_vgg_alone(technique, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "_whitened", lambda *_: splits(3, 32, 32))
    task = Cifar10Vgg(batch_size=8, peak_learning_rate=1e-6, width=0.05, dropout=technique is not VARIATIONAL)
    runs = [Run(task, technique, 4, seed) for seed in range(2)]
    compare(runs, tmp_path, steps=4, rtol=0.05)


# Rounding moves a value across the 0 of a ReLU here: alone, gradients of float32 and of float64 differ by up to 5 %.
def test_a_residual_network_on_cropped_images_in_a_fleet_is_the_network_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "_normalized", lambda *_: splits(3, 32, 32))
    task = Cifar10WideResNet(depth=10, width=1, batch_size=8, peak_learning_rate=1e-3)
    compare([Run(task, ONCE, 4, seed) for seed in range(2)], tmp_path, steps=4, rtol=0.1)


@pytest.mark.parametrize(("first", "then"), [(execute_all, execute_fleet), (execute_fleet, execute_all)])
def test_weights_whose_channels_are_last_go_on_in_a_fleet_and_alone(first, then, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "_whitened", lambda *_: splits(3, 32, 32))
    monkeypatch.setattr(fleet, "CHECKPOINT_SECONDS", 0.0)
    task = Cifar10Vgg(batch_size=8, peak_learning_rate=1e-4, width=0.03)
    runs = [Run(task, None, 4, seed) for seed in range(2)]
    execute_all(runs, tmp_path / "whole", evaluations=4)
    for part in [runs] if first is execute_fleet else [[run] for run in runs]:
        with pytest.raises(KeyboardInterrupt):
            first(part, tmp_path, evaluations=4, progress=until(3 * len(part)))
    then(runs, tmp_path, evaluations=4)
    for run in runs:
        assert_near(run, tmp_path / run.id, tmp_path / "whole" / run.id, 0.05)


def test_snapshots_and_evaluations_are_those_alone(tmp_path):
    compare([Run(DIGITS, ONCE, 6, seed) for seed in range(2)], tmp_path, steps=6, snapshots=2)


@pytest.mark.parametrize("judged_on", ["test", "validation"])
def test_held_out_images_are_those_alone(judged_on, tmp_path):
    task = replace(DIGITS, held_out=300, judged_on=judged_on)
    compare([Run(task, ONCE, 6, seed) for seed in range(2)], tmp_path, steps=6)


def test_runs_of_one_order_and_other_numbers_are_those_alone(tmp_path):
    rates = [replace(DIGITS, peak_learning_rate=rate, order=4, lasagne=bool(n)) for n, rate in enumerate((1e-2, 3e-3))]
    sparsities = [ow.GradualMagnitude(ow.OneShot(sparsity, at=at)) for sparsity, at in ((0.5, 2), (0.9, 3))]
    runs = [Run(task, technique, 6, seed) for seed, task in enumerate(rates) for technique in sparsities]
    compare(runs, tmp_path, steps=6)


SPARSE = Run(DIGITS, ONCE, 4)


@pytest.mark.parametrize(
    ("origins", "technique"),
    [
        ([Pretrained(Run(DIGITS, None, 4)) for _ in range(3)], ONCE),
        ([Pretrained(Run(DIGITS, None, 4)) for _ in range(3)], VARIATIONAL),
        ([LotteryTicket(replace(SPARSE, seed=seed)) for seed in range(3)], None),
        ([LotteryTicket(SPARSE, shuffled=True), LotteryTicket(SPARSE), Scratch(SPARSE)], None),
        ([Scratch(SPARSE), Scratch(SPARSE, augmented=True), Scratch(SPARSE, shuffled=True)], None),
        ([Rewound(SPARSE, step=2), Rewound(SPARSE, step=1), Scratch(SPARSE)], None),
    ],
    ids=["pretrained", "pretrained, variational", "tickets", "shuffled tickets", "scratch", "rewound"],
)
def test_what_runs_start_from_is_trained_in_fleets_of_its_own(origins: list[Origin], technique, tmp_path):
    ended, said = both([Run(DIGITS, technique, 4, seed, origin=o) for seed, o in enumerate(origins)], tmp_path)
    assert not said
    assert_widths(ended, origins)


def assert_widths(ended: Sweep, origins: list[Origin]) -> None:
    """Three runs of one fleet, after what they needed."""
    assert sorted(map(str, widths(ended)))[:3] == ["3"] * 3
    needed = {run.id: run.steps for origin in origins for run in (origin.weights, origin.zeros) if run}
    assert len(ended.runs) >= 3 + (len(needed) > 0)
