"""SET: a fraction of the smallest weights makes room for random ones."""

import itertools

import pytest
import torch
from torch import nn

import openwork as ow
from tests.helpers import conv_net, image_batches, train_step

SCHEDULE = ow.Constant(0.75, every=2, stop=8)


def started(technique, optimizer=torch.optim.Adam):
    torch.manual_seed(0)
    model = conv_net()
    sparsifier = ow.sparsify(model, technique)
    optimizer = optimizer(model.parameters(), lr=0.01)
    return model, sparsifier.attach(optimizer), optimizer


def test_set_nnz_of_each_layer_is_constant_and_new_weights_begin_at_zero():
    model, sparsifier, optimizer = started(ow.SET(SCHEDULE))
    exchanged = 0
    for batch in itertools.islice(image_batches(), 10):
        before = sparsifier.masks()
        train_step(model, sparsifier, optimizer, batch)
        masks = sparsifier.masks()
        assert [int(mask.sum()) for mask in masks.values()] == [18, 160, 12]
        for weight in sparsifier.weights:
            new = masks[weight.name] & ~before[weight.name]
            assert not new.any() or SCHEDULE.due(sparsifier.steps)
            assert (weight.parameter[new] == 0).all()
            assert (optimizer.state[weight.parameter]["exp_avg"][new] == 0).all()
            exchanged += int(new.sum())
    assert exchanged > 100  # 4 updates of 5 + 48 + 3 weights, less those that came back at once


def test_set_leaves_the_kept_weights_as_they_are():
    layer = nn.Linear(20, 1, bias=False)
    sparsifier = ow.sparsify(layer, ow.SET(ow.Constant(0.5, every=1), fraction=0.3))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    sparsifier.attach(optimizer)
    kept = sparsifier.masks()["weight"][0].nonzero().flatten()
    with torch.no_grad():
        layer.weight[0, kept] = torch.arange(1.0, 11.0)
    layer.weight.grad = torch.ones(1, 20)
    optimizer.step()
    assert layer.weight[0, kept[3:]].tolist() == [4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]  # 1, 2, 3 made room
    assert sparsifier.masks()["weight"][0, kept[3:]].all()


def test_set_with_zeta_zero_never_changes_its_masks():
    model, sparsifier, optimizer = started(ow.SET(SCHEDULE, fraction=0.0))
    first = sparsifier.masks()
    for batch in itertools.islice(image_batches(), 6):
        train_step(model, sparsifier, optimizer, batch)
    assert all(torch.equal(mask, first[name]) for name, mask in sparsifier.masks().items())


def test_set_grows_uniformly_among_all_that_are_not_kept():
    counts, rounds = torch.zeros(20), 2000
    layer = nn.Linear(20, 1, bias=False)
    sparsifier = ow.sparsify(layer, ow.SET(ow.Constant(0.5, every=1), fraction=0.5))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    sparsifier.attach(optimizer)
    survivors = sparsifier.masks()["weight"][0].nonzero().flatten()[5:]
    for _ in range(rounds):
        with torch.no_grad():
            layer.weight.zero_()
            layer.weight[0, survivors] = 1.0
        layer.weight.grad = torch.zeros(1, 20)
        optimizer.step()
        counts += sparsifier.masks()["weight"][0]
    assert (counts[survivors] == rounds).all()
    free = torch.ones(20, dtype=torch.bool)
    free[survivors] = False
    expected = rounds * 5 / 15
    # 5 of 15 are drawn each time: chi-square with 14 degrees of freedom, times (1 - 5 / 15) for draws without
    # replacement; its 1e-6 quantile is 56
    assert float(((counts[free] - expected) ** 2).sum() / expected) / (10 / 15) < 56


def test_set_wants_a_fraction():
    with pytest.raises(ValueError, match=r"fraction must be in \[0, 1\], got 1.5"):
        ow.SET(SCHEDULE, fraction=1.5)
