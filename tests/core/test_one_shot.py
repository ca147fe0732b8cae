"""Pruning a trained model at once, on the real handwritten digits."""

import copy
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import openwork as ow

digits = pytest.importorskip("openwork.study.data.digits", reason="the digits need scikit-learn")


def images(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    data = digits.digits(split)
    return data.images / digits.SCALE, data.labels


def accuracy(model: nn.Module) -> float:
    x, y = images("test")
    with torch.no_grad():
        return float((model.eval()(x).argmax(1) == y).float().mean())


@cache
def trained() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(512, 10)),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    x, y = images("train")
    for _ in range(6):
        for part in torch.randperm(len(x)).split(64):
            F.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
            optimizer.zero_grad()
    return model


def test_accuracy_is_measured_before_after_and_with_new_statistics():
    model = copy.deepcopy(trained())
    batches = images("train")[0].split(256)
    result = ow.prune(model, ow.GradualMagnitude(ow.OneShot(0.8)), accuracy, batches=batches)
    convs = 16 * 9, 32 * 16 * 9, 5120
    assert result.sparsity == sum(n - int(0.2 * n + 1e-6) for n in convs) / sum(convs)
    assert result.before == accuracy(trained()) > 0.95
    assert result.after < result.recalibrated <= result.before
    assert result.recalibrated == accuracy(model)
    assert ow.report(model).sparsity == result.sparsity
    assert str(result).startswith(f"80.0{round(1e4 * result.sparsity) % 10}% sparsity: {result.before:.4f} before, ")


def test_magnitude_costs_less_than_chance():
    results = [
        ow.prune(copy.deepcopy(trained()), technique, accuracy)
        for technique in (ow.GradualMagnitude(ow.OneShot(0.7)), ow.RandomPruning(ow.OneShot(0.7)))
    ]
    assert results[0].after > results[1].after
    assert results[0].recalibrated is None


@pytest.mark.parametrize("schedule", [ow.OneShot(0.5, at=3), ow.Cubic(0.5, end=10), ow.Constant(0.0)], ids=repr)
def test_a_schedule_that_prunes_later_is_refused(schedule):
    model = nn.Linear(4, 4)
    with pytest.raises(ValueError, match=r"does not reach a sparsity at once; use OneShot\(sparsity\)"):
        ow.prune(model, ow.GradualMagnitude(schedule), accuracy)
    assert (model.weight != 0).all()


@pytest.mark.parametrize("metric", [None, {"accuracy": 0.5}])
def test_an_evaluation_that_is_no_number_is_refused_before_the_model_is_pruned(metric):
    model = nn.Linear(4, 4)
    with pytest.raises(TypeError, match="evaluate must return one number, got "):
        ow.prune(model, ow.GradualMagnitude(ow.OneShot(0.5)), lambda _: metric)
    assert (model.weight != 0).all()
