"""Variational dropout on the digits: the explicit backward pass trains as that of autograd does."""

import statistics

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import openwork as ow
from openwork.study.data.digits import SCALE, digits

SEEDS = range(3)


@pytest.fixture(scope="module")
def data():
    parts = digits("train"), digits("test")
    return [(part.images.flatten(1) / SCALE, part.labels) for part in parts]


def trained(data, seed, memory="fast"):
    """(accuracy, sparsity) of a small network after 160 steps."""
    (x, y), (x_test, y_test) = data
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 60), nn.ReLU(), nn.Linear(60, 30), nn.ReLU(), nn.Linear(30, 10))
    technique = ow.VariationalDropout(ow.Constant(2e-4), log_sigma2=-8.0, memory=memory)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    sparsifier = ow.sparsify(model, technique)
    optimizer.add_param_group({"params": [p for n, p in model.named_parameters() if "reparam" in n]})
    sparsifier.attach(optimizer)
    for _ in range(160):
        rows = torch.randint(len(x), (100,))
        loss = F.cross_entropy(model(x[rows]), y[rows]) + sparsifier.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return (model(x_test).argmax(1) == y_test).double().mean().item(), sparsifier.sparsity()


def test_training_ends_within_the_noise_of_seeds(data, monkeypatch):
    fast = [trained(data, seed) for seed in SEEDS]
    small = [trained(data, seed, "small") for seed in SEEDS]
    monkeypatch.setattr("openwork.techniques.variational_dropout.transformed", lambda: True)
    plain = [trained(data, seed) for seed in SEEDS]
    for found in (fast, small):
        for ours, theirs in zip(zip(*found, strict=True), zip(*plain, strict=True), strict=True):
            # 4 sigma of the difference of two means of 3 seeds
            spread = 4 * ((statistics.variance(ours) + statistics.variance(theirs)) / 3) ** 0.5
            assert statistics.mean(ours) == pytest.approx(statistics.mean(theirs), abs=spread)
    assert min(accuracy for accuracy, _ in plain) > 0.8
    assert min(sparsity for _, sparsity in plain) > 0.3
