"""Which of its images the ImageNet task needs, and its errors for impossible settings."""

import json

import pytest
import torch
from typer.testing import CliRunner

from openwork.cli import app
from openwork.cli.weights import with_images
from openwork.study.runs.execute import execute
from openwork.study.runs.run import Run
from openwork.study.tasks.imagenet import ImageNetResNet
from tests.study.pictures_on_disk import images, write_folders, write_parquet
from tests.study.tinylab import Tiny

CPU = torch.device("cpu")
SMALL = {"depth": 18, "width": 0.125, "classes": 3, "size": 16, "batch_size": 4, "part_size": 2}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENWORK_DATA", str(tmp_path))
    monkeypatch.setenv("OPENWORK_WORKERS", "0")


def test_evaluating_needs_no_training_images_but_training_does(tmp_path):
    write_folders(tmp_path / "one", "val", images(5))
    task = ImageNetResNet("one", **SMALL)
    assert task.evaluate(task.model(), CPU)["images"] == 5
    with pytest.raises(FileNotFoundError, match="one has no split 'train'"):
        next(task.batches(0, 0, CPU))


def test_training_compares_the_classes_of_both_splits(tmp_path):
    write_folders(tmp_path / "two", "train", images(5))
    write_folders(tmp_path / "two", "val", images(5))
    (tmp_path / "two" / "val" / "n03").rename(tmp_path / "two" / "val" / "n04")
    with pytest.raises(ValueError, match="class 2 is 'n03' in training and 'n04' in validation"):
        next(ImageNetResNet("two", **SMALL).batches(0, 0, CPU))
    with pytest.raises(ValueError, match="the validation images have 3 classes, and the model 4"):
        ImageNetResNet("two", **{**SMALL, "classes": 4}).evaluate(torch.nn.Identity(), CPU)


def test_without_a_warm_up_the_rate_begins_at_its_peak():
    task = ImageNetResNet(warm_up=0.0)
    assert [task.learning_rate(epoch / task.epochs) for epoch in (0, 1, 31)] == pytest.approx([0.4, 0.4, 0.04])


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"warm_up": -1.0}, "task.warm_up must be at least 0, which is none; the paper's is 5 epochs; got -1.0"),
        ({"label_smoothing": 1.0}, "task.label_smoothing must be in .0, 1., where 0 is none; .* got 1.0"),
        ({"label_smoothing": float("nan")}, "task.label_smoothing must be in .* got nan"),
        ({"size": 0}, "task.size must be at least 1; the paper's is 224; got 0"),
        ({"epochs": 0.0}, "task.epochs must be more than 0; .* got 0.0"),
        ({"weight_decay": -1e-4}, "task.weight_decay must be at least 0, .* got -0.0001"),
        ({"batch_size": 0}, "batch_size 0 must be a multiple of part_size, got 2"),
    ],
)
def test_settings_that_cannot_be_are_said(setting, said):
    with pytest.raises(ValueError, match=said):
        ImageNetResNet("here", **{**SMALL, **setting})


def test_other_images_may_have_a_name_that_looks_like_a_number(tmp_path):
    for name, count in (("own", 5), ("2012", 3)):
        write_folders(tmp_path / name, "train", images(count))
        write_folders(tmp_path / name, "val", images(count))
    run = Run(ImageNetResNet("own", **SMALL), None, steps=1)
    execute(run, tmp_path / "runs", evaluations=1)
    answer = CliRunner().invoke(app, ["eval", str(tmp_path / "runs" / run.id), "--data", "2012", "--json"])
    assert json.loads(answer.stdout)["evaluated"][0]["images"] == 3


@pytest.mark.parametrize("own", ["folders", "parquet", "nothing"])
def test_other_images_must_have_the_same_classes_as_far_as_can_be_told(tmp_path, own):
    write_folders(tmp_path / "other", "val", images(5))
    (tmp_path / "other" / "val" / "n02").rename(tmp_path / "other" / "val" / "n09")  # labels count the sorted names
    task = ImageNetResNet("own", **SMALL)
    if own == "folders":
        write_folders(tmp_path / "own", "val", images(5))
        task.check_same_classes(task)
        with pytest.raises(
            ValueError, match="class 1 is 'n03' in other and 'n02' in own, whose classes the model knows"
        ):
            with_images(Run(task, None, steps=1), "other")
    else:
        if own == "parquet":
            write_parquet(tmp_path / "own", "validation", images(5))
        assert with_images(Run(task, None, steps=1), "other").task == ImageNetResNet("other", **SMALL)


def test_a_task_without_a_source_has_no_other_images(tmp_path):
    run = Run(Tiny(), None, steps=1)
    execute(run, tmp_path, evaluations=1)
    answer = CliRunner().invoke(app, ["eval", str(tmp_path / run.id), "--trust", "tests", "--data", "x"])
    assert str(answer.exception) == "--data is for tasks with a source, and tiny has no other images; leave --data out"
