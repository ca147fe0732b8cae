"""Which of its images the ImageNet task needs, and what it says of settings that cannot be."""

import pytest
import torch
from pictures_on_disk import images, write_folders

from openwork.study.tasks.imagenet import ImageNetResNet

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
