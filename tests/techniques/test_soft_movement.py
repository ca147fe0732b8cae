"""Soft movement pruning: the gradients of scores, the threshold and penalty that rise together, and the floor."""

import itertools

import pytest
import torch
from torch import nn

import openwork as ow
from tests.helpers import conv_net, image_batches, raises, train_step

RISE = ow.Cubic(4.0, begin=0, end=8, every=1)


def parameters(layer):
    found = dict(layer.named_parameters())
    return found["weight"], found["reparam.weight.S"]


def started(technique, inputs=6, outputs=4):
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs, bias=False)
    return layer, ow.sparsify(layer, technique)


def test_movement_s_of_the_soft_mask_after_one_step_is_minus_rate_times_gradient_times_weight():
    layer, sparsifier = started(ow.SoftMovement(ow.Cubic(1.0, begin=5, end=9)))
    weight, scores = parameters(layer)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    before, x = weight.detach().clone(), torch.randn(5, 6)
    (layer(x).square().sum() + sparsifier.penalty()).backward()
    gradient = weight.grad.clone()  # that by w * mask, as all weights are kept
    assert gradient.all()
    optimizer.step()
    torch.testing.assert_close(scores.detach(), -0.1 * before * gradient)


def test_movement_s_of_the_soft_mask_has_a_gradient_where_weights_are_removed_and_they_have_none():
    layer, _ = started(ow.SoftMovement(ow.Constant(1.0), tau=0.5))
    weight, scores = parameters(layer)
    with torch.no_grad():
        scores[:, ::2] = -1.0
    masked = torch.where(scores >= 0, weight, 0).detach().requires_grad_()
    x = torch.randn(5, 6)
    (x @ masked.T).square().sum().backward()
    layer(x).square().sum().backward()
    torch.testing.assert_close(scores.grad, masked.grad * weight.detach())
    torch.testing.assert_close(weight.grad, torch.where(scores >= 0, masked.grad, 0))
    assert scores.grad[:, ::2].all()


def test_threshold_and_penalty_rise_by_one_schedule_and_stay():
    layer, sparsifier = started(ow.SoftMovement(RISE, tau=0.1))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    sparsifier.attach(optimizer)
    for step in range(12):
        tau = float(torch.sigmoid(layer.reparam.weight.cut))
        assert tau == pytest.approx(0.1 * RISE(step) / 4, abs=1e-7)
        assert sparsifier.penalty().item() == pytest.approx(RISE(step) * 0.5)  # the mean of sigmoid(0)
        (layer(torch.ones(1, 6)).sum() + sparsifier.penalty()).backward()
        optimizer.step()
    assert tau == pytest.approx(0.1)


def test_a_threshold_of_zero_keeps_all():
    layer, sparsifier = started(ow.SoftMovement(ow.OneShot(1.0, at=5)))
    with torch.no_grad():
        parameters(layer)[1].uniform_(-80, 80)
    assert sparsifier.sparsity() == 0


def test_the_penalty_is_the_mean_over_matrices_of_the_mean_over_their_weights():
    model = conv_net()
    sparsifier = ow.sparsify(model, ow.SoftMovement(ow.Constant(2.0)))
    with torch.no_grad():
        for number, distribution in enumerate(sparsifier.mechanism.distributions):
            distribution.S.fill_(float(number))
    expected = 2 * float(torch.sigmoid(torch.tensor([0.0, 1.0, 2.0])).mean())
    assert sparsifier.penalty().item() == pytest.approx(expected)


def test_half_a_percent_of_a_matrix_survives_whatever_its_scores_are():
    layer, sparsifier = started(ow.SoftMovement(ow.Constant(1.0), tau=0.9), inputs=30, outputs=20)
    with torch.no_grad():
        parameters(layer)[1].copy_(-torch.arange(600.0).view(20, 30))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    sparsifier.attach(optimizer)
    layer(torch.ones(1, 30)).sum().backward()
    optimizer.step()
    assert sparsifier.masks()["weight"].flatten().nonzero().flatten().tolist() == [0, 1, 2]
    assert sparsifier.expected_nonzero() == {"weight": 3.0}


def test_fine_tuning_removes_what_moves_towards_zero():
    torch.manual_seed(0)
    model = conv_net()
    sparsifier = ow.sparsify(model, ow.SoftMovement(ow.Cubic(3.0, begin=2, end=20)))
    decayed, scores = sparsifier.parameter_groups(0.01)
    assert len(decayed["params"]) == 6  # weights decay, scores do not
    optimizer = torch.optim.AdamW([decayed | {"lr": 1e-3}, scores | {"lr": 0.1}])
    sparsifier.attach(optimizer)
    for batch in itertools.islice(image_batches(), 40):
        train_step(model, sparsifier, optimizer, batch)
    expected = {
        weight.name: torch.sigmoid(each.S) > 0.1
        for weight, each in zip(sparsifier.weights, sparsifier.mechanism.distributions, strict=True)
    }
    masks = sparsifier.masks()
    assert all(torch.equal(masks[name], expected[name]) for name in masks)
    assert 0.2 < sparsifier.sparsity() < 1


def test_settings_that_cannot_be_are_refused():
    with raises(ValueError, "tau must be in (0, 1), got 1.5"):
        ow.SoftMovement(RISE, tau=1.5)
    with raises(ValueError, "the coefficient of SoftMovement moves its threshold, too, and ends at 0"):
        ow.SoftMovement(ow.Constant(0.0))
