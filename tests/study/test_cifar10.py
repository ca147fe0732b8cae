import io
import json
import math
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import openwork as ow
from openwork.study.data import cifar10 as module
from openwork.study.data.cifar10 import cifar10, normalized, only_jpeg
from openwork.study.data.images import Images
from openwork.study.data.splits import Splits
from openwork.study.experiments import cifar10 as experiments
from openwork.study.runs.execute import execute
from openwork.study.runs.origin import Pretrained
from openwork.study.runs.run import Run
from openwork.study.tasks import cifar10 as tasks
from openwork.study.tasks.cifar10 import Cifar10SmallResNet, Cifar10Vgg, Cifar10WideResNet
from openwork.study.tasks.cifar10_resnet import Cifar10ResNet, _enlarged
from openwork.study.tasks.classification import decayed
from openwork.study.tasks.stacked import stacked_batches, taking

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
needs_copy = pytest.mark.skipif(not (SHARED / "cifar10-jpeg").is_dir(), reason="no ../shared/data/cifar10-jpeg")
CPU = torch.device("cpu")
TINY = Cifar10WideResNet(depth=10, width=1, batch_size=16, peak_learning_rate=0.05)
FIRST = ow.matching("stage*.conv1.weight")


def write(folder: Path, *, column: str = "image", grey: int = 0) -> None:
    """64 training and 40 test images: noise, brighter where the label is 1, on the grey level."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for split, count in (("train", 64), ("test", 40)):
        labels, rows = [n % 2 for n in range(count)], []
        for label in labels:
            buffer = io.BytesIO()
            pixels = grey + random.integers(0, 100, (32, 32, 3)) + 100 * label
            Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
            rows.append({"bytes": buffer.getvalue(), "path": None})
        pq.write_table(pa.table({column: rows, "label": labels}), folder / f"{split}.parquet")


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A made-up data set in place of CIFAR-10."""
    monkeypatch.setenv("OPENWORK_DATA", str(tmp_path))
    write(tmp_path / "cifar10")
    yield tmp_path
    for cached in (tasks._normalized, _enlarged, tasks._whitened):
        cached.cache_clear()


# --- data -----------------------------------------------------------------------------------------------------------


def test_the_two_copies_are_two_data_sets(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENWORK_DATA", str(tmp_path))
    monkeypatch.setattr(module, "read_hub", lambda name, split: (name, split))
    assert cifar10("test") == ("uoft-cs/cifar10", "test")
    write(tmp_path / "cifar10-jpeg", grey=50)
    assert only_jpeg()
    assert int(cifar10("train", jpeg=True).images.min()) == 50
    module._cifar10.cache_clear()
    write(tmp_path / "cifar10", column="img")
    assert not only_jpeg()
    assert int(cifar10("train").images.min()) == 0
    assert cifar10("train") is cifar10("train")  # decoded once


def test_what_is_missing_is_said_with_both_cures(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENWORK_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no JPEG copy of CIFAR-10 in .*put train.parquet.*or .*jpeg=False"):
        cifar10("train", jpeg=True)

    def offline(name: str, split: str) -> Images:
        raise FileNotFoundError("offline")

    monkeypatch.setattr(module, "read_hub", offline)
    with pytest.raises(FileNotFoundError, match=r"no CIFAR-10 in .* and none from the hub; put .*OPENWORK_DATA"):
        cifar10("train")
    with pytest.raises(ValueError, match="CIFAR-10 has the splits 'train' and 'test', got 'val'; choose one"):
        cifar10("val")


def test_normalising_by_hand():
    images = torch.tensor([0, 123, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = [(0 - 125.3) / 63.0, 0.0, (255 - 113.9) / 66.7]
    assert normalized(images).flatten().tolist() == pytest.approx(expected)


@pytest.mark.slow
@needs_copy
def test_the_jpeg_copy_is_cifar10_up_to_its_compression(monkeypatch):
    monkeypatch.setenv("OPENWORK_DATA", str(SHARED))
    train, test = cifar10("train", jpeg=True), cifar10("test", jpeg=True)
    assert (train.images.shape, test.images.shape) == ((50_000, 3, 32, 32), (10_000, 3, 32, 32))
    assert (train.labels.bincount().tolist(), test.labels.bincount().tolist()) == ([5_000] * 10, [1_000] * 10)
    images = normalized(train.images)
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=2e-3, rtol=0)
    torch.testing.assert_close(images.std((0, 2, 3)), torch.ones(3), atol=2e-2, rtol=0)  # JPEG lost some contrast


# --- tasks ----------------------------------------------------------------------------------------------------------


def test_titles_say_which_copy():
    assert Cifar10Vgg(width=0.5, jpeg=True).title == "VGG-like x 0.5, CIFAR-10 (JPEG copy)"
    assert Cifar10WideResNet().title == "WRN-28-10, CIFAR-10"
    assert Run(Cifar10Vgg(), None, steps=1).id != Run(Cifar10Vgg(jpeg=True), None, steps=1).id


def test_learning_rates_by_hand():
    rates = [Cifar10WideResNet().learning_rate(epoch / 200) for epoch in (0, 59.9, 60, 119.9, 120, 159.9, 160, 199)]
    assert rates == pytest.approx([0.1, 0.1, 0.02, 0.02, 0.004, 0.004, 0.0008, 0.0008])
    small = Cifar10SmallResNet(peak_learning_rate=1.0)
    assert [small.learning_rate(p) for p in (0, 0.1, 0.2, 0.6, 0.9)] == pytest.approx([0.1, 0.55, 1.0, 0.5, 0.125])
    assert small.first(0.4).learning_rate(0.5) == small.learning_rate(0.2)
    assert [Cifar10Vgg().learning_rate(epoch / 200) for epoch in (0, 100, 150)] == pytest.approx([1e-5, 1e-5, 5e-6])


def test_resnet_has_imagenets_stem_and_images_of_64_pixels(small):
    task = Cifar10ResNet(batch_size=16)
    assert sum(p.numel() for p in task.model().parameters()) == 23_528_522
    assert task.example(CPU).shape == (1, 3, 64, 64)
    images, labels = next(task.batches(0, 0, CPU))
    assert (images.shape, labels.shape) == ((16, 3, 64, 64), (16,))
    kept = task.data(CPU).test.images[:, :, 0, 0]  # a corner keeps its value, edges are not padded
    torch.testing.assert_close(kept, normalized(cifar10("test").images)[:, :, 0, 0])
    accuracy = execute(Run(replace(task, depth=18), None, steps=2), small / "runs").after["accuracy"]
    assert 0 <= accuracy <= 1


def test_the_small_residual_network_is_resnet_20_and_shortcuts_are_the_input(small):
    task = Cifar10SmallResNet()
    model = task.model()
    assert sum(p.numel() for p in model.parameters()) == 269_722
    assert sum(p.numel() for p in model.parameters() if p.dim() > 1) == 268_336
    assert [group["weight_decay"] for group in task.optimizer(model).param_groups] == [0.05]
    assert (task.title, replace(task, channels=4).title) == (
        "ResNet-20, CIFAR-10",
        "ResNet-20 of 4 channels, CIFAR-10",
    )
    block = model.stage2[0].eval()
    nn.init.zeros_(block.norm2.weight)
    x = torch.rand(1, 16, 4, 4)
    assert torch.equal(block(x)[:, 8:24], x[:, :, ::2, ::2])
    assert not block(x)[:, [*range(8), *range(24, 32)]].any()
    with pytest.raises(ValueError, match="depth must be 2 plus a multiple of 6, such as 20 or 56, got 18"):
        Cifar10SmallResNet(depth=18).model()
    with pytest.raises(ValueError, match=r"beginning must be in \(0, 1\], .* got 0"):
        Cifar10SmallResNet(beginning=0)


def test_cropped_images_of_many_runs_are_those_of_each(small):
    task = Cifar10SmallResNet(batch_size=16)
    take = taking(task, CPU)
    for number, batch in enumerate(
        islice(stacked_batches(task, [task] * 3, [3, 5, 3], 2, CPU), 3)
    ):  # into a second epoch
        images, labels = take(batch)
        for place, seed in enumerate((3, 5, 3)):
            own = next(iter(task.batches(seed, 2 + number, CPU)))
            assert torch.equal(images[place], own[0])
            assert torch.equal(labels[place], own[1])
            assert images[place].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("technique", [None, ow.L0(ow.Constant(0.0)), ow.VariationalDropout(ow.Constant(0.0))])
def test_all_is_decayed_but_random_weights_and_what_is_learned_with_them(technique):
    model = TINY.model()
    names = {name for name, _ in model.named_parameters()}
    first = {name for name in names if name.endswith("conv1.weight")}
    sparsifier = ow.sparsify(model, technique, select=FIRST) if technique else None
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {
        group["weight_decay"]: {by_id[id(p)] for p in group["params"]} for group in decayed(model, sparsifier, 5e-4)
    }
    assert groups[5e-4] == (names - first if technique else names)
    if technique:
        assert len(groups[0.0]) == 2 * len(first) == 6
        assert first < groups[0.0]


def test_a_tied_random_weight_is_not_decayed_either():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    sparsifier = ow.sparsify(model, ow.L0(ow.Constant(0.0)))
    assert [group["weight_decay"] for group in decayed(model, sparsifier, 0.1)] == [0.0]


def test_l2_is_the_gradient_of_the_sum_of_squares():
    model = nn.Linear(2, 1)
    optimizer = Cifar10Vgg(l2=0.25).optimizer(model)
    (group,) = optimizer.param_groups
    loss = 0.25 * sum((p**2).sum() for p in model.parameters())
    loss.backward()
    assert all(torch.equal(p.grad, group["weight_decay"] * p) for p in model.parameters())


def test_wide_resnets_see_cropped_and_normalised_images(small):
    images, labels = next(TINY.batches(0, 0, CPU))
    assert images.is_contiguous(memory_format=torch.channels_last)
    black = normalized(torch.zeros(1, 3, 1, 1, dtype=torch.uint8))
    assert bool((images[..., 0, :] == black[..., 0]).all(1).any())  # some image was shifted down
    assert images[labels == 1].mean() > images[labels == 0].mean() + 1
    test = TINY.data(CPU).test
    assert torch.equal(test.images, normalized(cifar10("test").images))
    assert torch.equal(TINY.example(CPU), test.images[:1])


@pytest.mark.parametrize("technique", [None, ow.L0(ow.Constant(1e-6), dropout=0.3)], ids=lambda t: type(t).__name__)
def test_an_interrupted_wide_resnet_ends_with_the_same_bits(small, technique):
    run = Run(TINY, technique, steps=12, select=FIRST if technique else ow.weight_matrices)
    whole = execute(run, small / "whole", evaluations=3)

    def stop(step: int) -> None:
        if step == 6:  # the last checkpoint is at 4, the end of an epoch
            raise InterruptedError

    with pytest.raises(InterruptedError):
        execute(run, small / "resumed", evaluations=3, progress=stop)
    assert execute(run, small / "resumed", evaluations=3).after == whole.after
    tensors = [load_file(small / name / run.id / "model.safetensors") for name in ("whole", "resumed")]
    assert all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())
    if technique:
        rows = [json.loads(line) for line in (small / "whole" / run.id / "metrics.jsonl").read_text().splitlines()]
        # The three gated convolutions have 2304·32², 4608·32² and 18432·16² of the multiply-adds.
        gated = 2304 * 1024 + 4608 * 1024 + 18432 * 256
        rest = 432 * 1024 + (2304 * 1024 + 9216 * 256 + 36864 * 64) + (512 * 256 + 2048 * 64) + 640
        probability = 1 / (1 + math.exp(-(math.log(0.7 / 0.3) + 2 / 3 * math.log(11))))
        assert rows[0]["expected_flops"] == pytest.approx((gated * probability + rest) / (gated + rest), abs=2e-3)


def test_sparse_vd_starts_from_the_network_with_dropout(tmp_path, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(32) % 2
    images = torch.randn(32, 3, 32, 32, generator=generator) + labels.view(-1, 1, 1, 1)
    data = Images(images, labels)
    monkeypatch.setattr(tasks, "_whitened", lambda device, jpeg, held_out: Splits(data, data, data))
    small = {"width": 0.25, "batch_size": 16, "peak_learning_rate": 1e-3}
    dropout = Run(Cifar10Vgg(**small, dropout=True), None, steps=6)
    sparse_vd = ow.VariationalDropout(ow.Constant(1e-6), log_sigma2=-15.0)
    run = Run(Cifar10Vgg(**small, l2=0.0), sparse_vd, steps=2, origin=Pretrained(dropout))
    result = execute(run, tmp_path, evaluations=1)
    assert (result.status, result.name) == ("finished", "VariationalDropout")
    before, after = (load_file(tmp_path / one.id / "model.safetensors") for one in (dropout, run))
    moved = (after["fc2.weight"] - before["fc2.weight"]).abs()
    assert 0 < float(moved.max()) < 3e-3  # two steps of Adam at 1e-3


@pytest.mark.slow
def test_compiled_runs_work_with_cropping_and_channels_last(small, monkeypatch):
    l0 = Run(TINY, ow.L0(ow.Constant(1e-6), dropout=0.3), steps=8, select=FIRST)
    images = Images(torch.randn(32, 3, 32, 32), torch.arange(32) % 10)
    monkeypatch.setattr(tasks, "_whitened", lambda device, jpeg, held_out: Splits(images, images, images))
    sparse_vd = ow.VariationalDropout(ow.Constant(1e-6), log_sigma2=-15.0)
    vgg = Run(Cifar10Vgg(width=0.25, batch_size=16), sparse_vd, steps=2)
    dropout = Run(Cifar10Vgg(width=0.25, batch_size=16, dropout=True), None, steps=2)
    for run in (l0, vgg, dropout):
        result = execute(run, small / "runs", compile=True, evaluations=1)
        assert result.status == "finished"


def test_the_experiments_are_the_published_ones(monkeypatch):
    monkeypatch.setattr(experiments, "only_jpeg", lambda: True)
    original, vgg = experiments.vgg(epochs=200), experiments.vgg()
    assert len({run.id for run in vgg}) == len(vgg) == 10
    assert [run.task.width for run in vgg[::2]] == [0.25, 0.5, 1.0, 1.5, 2.0]
    for dropout, sparse in zip(vgg[::2], vgg[1::2], strict=True):
        assert (sparse.origin.run, dropout.task.dropout, sparse.task.dropout) == (dropout, True, False)
        assert dropout.task.peak_learning_rate * dropout.steps == pytest.approx(1e-5 * 100_000)
    assert {(run.steps, run.task.peak_learning_rate) for run in original} == {(100_000, 1e-5)}
    assert [original[1].technique.coefficient(500 * epoch) for epoch in (5, 20)] == [0, 1 / 50_000]
    dense, l0 = experiments.wide_resnet()
    assert (dense.task, dense.steps, l0.task.title) == (l0.task, 78_000, "WRN-28-10, CIFAR-10 (JPEG copy)")
    assert (l0.technique.coefficient(0), l0.technique.dropout) == (3e-4, 0.3)
    assert l0.technique.weight_decay == dense.task.weight_decay == 5e-4
