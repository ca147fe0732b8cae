import itertools

import pytest
import torch
from torch import nn

import openwork as ow

EVERY_STEP = ow.Splicing(1000, gamma=0.0)


def layer_of(values):
    layer = nn.Linear(len(values), 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([values]))
    return layer


def test_a_weight_goes_at_nine_tenths_of_the_threshold_and_returns_at_eleven():
    layer = layer_of([1.0, -1.0, 3.0, -3.0])  # mean 2, std 1.1547: the threshold is 2 with rate 0
    sparsifier = ow.sparsify(layer, ow.DynamicSurgery(EVERY_STEP, rate=0.0))
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    sparsifier.attach(optimizer)

    def step(*gradient):
        layer.weight.grad = torch.tensor([gradient])
        optimizer.step()
        return layer.weight.tolist()[0]

    assert step(0.0, 0.0, 1.1, -1.0) == [0.0, 0.0, pytest.approx(1.9), -2.0]  # 1.9 > 1.8 stays
    assert step(-1.1, 0.0, 0.2, 0.0) == [0.0, 0.0, 0.0, -2.0]  # 2.1 < 2.2 stays away, 1.7 goes
    assert step(-0.2, 1.3, 0.0, 0.0) == [pytest.approx(2.3), pytest.approx(-2.3), 0.0, -2.0]  # both are back


def test_the_gradient_of_the_masked_model_moves_all_weights():
    torch.manual_seed(0)
    layer = nn.Linear(6, 4, bias=False)
    sparsifier = ow.sparsify(layer, ow.DynamicSurgery(EVERY_STEP, rate=0.5))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    raw, mask = layer.weight.detach().clone(), torch.ones(4, 6, dtype=torch.bool)
    threshold = raw.abs().mean() + 0.5 * raw.abs().std()
    for _ in range(8):
        x = torch.randn(5, 6)
        masked = (raw * mask).requires_grad_()
        (x @ masked.T).square().sum().backward()
        layer(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        raw = raw - 0.1 * masked.grad  # straight-through
        mask = torch.where(mask, raw.abs() >= 0.9 * threshold, raw.abs() >= 1.1 * threshold)
        torch.testing.assert_close(layer.weight.detach(), raw * mask)
    assert 0 < int(mask.sum()) < 24


def test_the_threshold_of_the_beginning_survives_a_resume():
    first, second = nn.Linear(6, 4), nn.Linear(6, 4)
    technique = ow.DynamicSurgery(EVERY_STEP, rate=0.5)
    one, two = ow.sparsify(first, technique), ow.sparsify(second, technique)
    two.load_state_dict(one.state_dict())
    first_evidence, second_evidence = one.state_dict()["evidence"], two.state_dict()["evidence"]
    assert first_evidence["weight"]["mean"] == second_evidence["weight"]["mean"] > 0
    assert first_evidence["weight"]["std"] == second_evidence["weight"]["std"] > 0


def test_updates_become_rarer_and_end():
    schedule = ow.Splicing(20_000, gamma=1e-3)
    due = [step for step in range(25_000) if schedule.due(step)]
    assert due == [step for step in range(25_000) if schedule.due(step)]
    counts = [sum(1 for step in due if low <= step < low + 5000) for low in range(0, 25_000, 5000)]
    # sum of 1 / (1 + step / 1000): 1000 log 6, 1000 log (11 / 6), ...; 6 sigma of sums of Bernoulli draws is below 200
    for count, expected in zip(counts, (1792, 606, 375, 272, 0), strict=True):
        assert abs(count - expected) < 200 * (expected > 0) + 1
    assert not ow.Splicing(5).due(0)
    assert list(itertools.islice((s for s in range(9) if EVERY_STEP.due(s)), 3)) == [1, 2, 3]


@pytest.mark.parametrize("values", [[0.0] * 6, [0.5] * 6, [0.3]], ids=["zeros", "equal weights", "one weight"])
def test_weights_that_do_not_deviate_stay(values):
    layer = layer_of(values)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    ow.sparsify(layer, ow.DynamicSurgery(EVERY_STEP)).attach(optimizer)
    layer.weight.grad = torch.zeros_like(layer.weight)
    optimizer.step()
    assert layer.weight.tolist() == torch.tensor([values]).tolist()
