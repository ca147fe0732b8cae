"""Batch norms' statistics, computed again from a run's training batches."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from openwork.cli import app
from openwork.core.schedules import Constant
from openwork.study.data.imagenet import normalized
from openwork.study.runs.execute import execute
from openwork.study.runs.recalibration import recalibrate
from openwork.study.runs.run import Run
from openwork.study.tasks import cifar10
from openwork.study.tasks.cifar10 import Cifar10SmallResNet
from openwork.study.tasks.imagenet import ImageNetResNet
from openwork.study.tasks.lenet import DigitsLeNet300100
from openwork.techniques.l0 import L0
from tests.study.pictures_on_disk import pictures_folder
from tests.study.test_fleet_networks import splits

CPU = torch.device("cpu")
TASK = ImageNetResNet("pictures", depth=18, width=0.125, classes=3, size=32, batch_size=6, part_size=3)
RUN = Run(TASK, L0(Constant(0.0), dropout=0.5), steps=2)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    return pictures_folder(tmp_path, monkeypatch, train=13, validation=7)


def test_statistics_are_means_over_the_parts_of_training_batches(pictures):
    torch.manual_seed(0)
    model = TASK.model()
    recalibrate(replace(RUN, seed=3), model, CPU, batches=2)
    assert model.training  # as it was
    batches = TASK.batches(3, 0, CPU)
    parts = [part for _ in range(2) for part in next(batches).batches]
    assert len(parts) == 4
    with torch.no_grad():
        outputs = [model.conv1(normalized(part.images, part.mirrored)) for part in parts]
    norm = model.bn1
    torch.testing.assert_close(norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in outputs]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([x.var((0, 2, 3)) for x in outputs]).mean(0))


def test_statistics_of_a_task_without_parts_are_means_over_its_batches(monkeypatch):
    monkeypatch.setattr(cifar10, "_normalized", lambda *_: splits(3, 32, 32))
    task = Cifar10SmallResNet(depth=8, channels=2, batch_size=8)
    model = task.model()
    recalibrate(Run(task, None, steps=1), model, CPU, batches=2)
    batches = task.batches(0, 0, CPU)
    means = [model.stem(next(batches)[0]).mean((0, 2, 3)) for _ in range(2)]
    torch.testing.assert_close(model.norm.running_mean, torch.stack(means).mean(0))


def test_eval_recalibrates_before_it_evaluates(pictures):
    result = execute(RUN, pictures, evaluations=1)
    found = []
    for arguments in ([], ["--recalibrate", "1"]):
        answer = CliRunner().invoke(app, ["eval", str(pictures / RUN.id), "--json", *arguments])
        found.append(json.loads(answer.stdout)["evaluated"][0]["loss"])
    assert found[0] == pytest.approx(result.after["loss"])
    assert found[1] != pytest.approx(found[0])


def test_a_model_without_batch_norms_has_nothing_to_recalibrate():
    run = Run(DigitsLeNet300100(), None, steps=1)
    with pytest.raises(ValueError, match="the model has no BatchNorm with running statistics"):
        recalibrate(run, run.task.model(), CPU, batches=1)
