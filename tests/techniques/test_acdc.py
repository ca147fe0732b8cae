"""AC/DC: phases by turns, weights that come back at zero, and an optimizer that begins anew with them."""

import itertools

import pytest
import torch

import openwork as ow
from tests.helpers import conv_net, image_batches, raises, train_step

PHASES = ow.Phases(0.75, begin=2, end=11, sparse=2, dense=2)  # 762 weights, of which 190 are kept


def started(technique, optimizer):
    torch.manual_seed(0)
    model = conv_net()
    sparsifier = ow.sparsify(model, technique)
    optimizer = optimizer(model.parameters())
    return model, sparsifier.attach(optimizer), optimizer


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def kept(sparsifier):
    return sum(int(mask.sum()) for mask in sparsifier.masks().values())


def test_acdc_phases_of_the_paper_s_hundred_epochs():
    schedule = ow.Phases(0.9, begin=10, end=85, sparse=5, dense=5)
    assert [epoch for epoch in range(101) if schedule.due(epoch) and schedule(epoch)] == [*range(10, 71, 10), 85]
    assert [epoch for epoch in range(101) if schedule.due(epoch) and not schedule(epoch)] == [*range(15, 76, 10)]
    assert [schedule(epoch) for epoch in (0, 9, 10, 14, 15, 74, 75, 84, 85, 500)] == [
        0,
        0,
        0.9,
        0.9,
        0,
        0.9,
        0,
        0,
        0.9,
        0.9,
    ]
    assert schedule.last == 85


def test_acdc_phases_of_the_paper_s_two_hundred_epochs():
    schedule = ow.Phases(0.9, begin=10, end=175, sparse=20, dense=13)
    assert [epoch for epoch in range(201) if schedule.due(epoch) and schedule(epoch)] == [10, 43, 76, 109, 142, 175]
    assert [epoch for epoch in range(201) if schedule.due(epoch) and not schedule(epoch)] == [30, 63, 96, 129, 162]


def test_acdc_phases_alternate_between_k_and_all_weights_and_end_with_a_mask_that_stays():
    model, sparsifier, optimizer = started(ow.ACDC(PHASES), sgd)
    counts = [kept(sparsifier)]
    for batch in itertools.islice(image_batches(), 14):
        train_step(model, sparsifier, optimizer, batch)
        counts.append(kept(sparsifier))
        if sparsifier.steps == 11:
            last = sparsifier.masks()
    assert counts == [762, 762, 190, 190, 762, 762, 190, 190, 762, 762, 762, 190, 190, 190, 190]
    assert all(torch.equal(mask, last[name]) for name, mask in sparsifier.masks().items())


def test_acdc_ranks_all_tensors_together_and_may_be_told_not_to():
    for technique, counts in ((ow.ACDC(PHASES), None), (ow.ACDC(PHASES, allocation=ow.Uniform()), [18, 160, 12])):
        model, sparsifier, optimizer = started(technique, sgd)
        for batch in itertools.islice(image_batches(), 2):
            train_step(model, sparsifier, optimizer, batch)
        found = [int(mask.sum()) for mask in sparsifier.masks().values()]
        kept_ones = torch.cat([w.parameter.detach()[w.parameter != 0].abs() for w in sparsifier.weights])
        assert sum(found) == 190
        assert found == counts or (counts is None and len(kept_ones) == 190 and found != [18, 160, 12])


@pytest.mark.parametrize(
    "optimizer", [sgd, lambda p: torch.optim.Adam(p, lr=0.01), lambda p: torch.optim.AdamW(p, lr=0.01)]
)
def test_acdc_after_a_release_pruned_weights_are_zero_and_no_weight_has_momentum(optimizer):
    model, sparsifier, optimizer = started(ow.ACDC(PHASES), optimizer)
    for batch in itertools.islice(image_batches(), 4):
        before = sparsifier.masks()
        train_step(model, sparsifier, optimizer, batch)
    for weight in sparsifier.weights:
        assert sparsifier.masks()[weight.name].all()
        assert (weight.parameter[~before[weight.name]] == 0).all()
        for slot in optimizer.state[weight.parameter].values():
            assert not torch.is_tensor(slot) or slot.shape != weight.parameter.shape or not slot.any()
    others = [p for p in model.parameters() if all(p is not weight.parameter for weight in sparsifier.weights)]
    assert all(any(torch.is_tensor(s) and s.any() for s in optimizer.state[p].values()) for p in others)
    train_step(model, sparsifier, optimizer, next(image_batches()))
    assert all((w.parameter[~before[w.name]] != 0).any() for w in sparsifier.weights)


def test_magnitude_pruning_with_phases_keeps_the_momentum_of_kept_weights():
    technique = ow.GradualMagnitude(PHASES, allocation=ow.GlobalRanking(), hidden="lost")
    model, sparsifier, optimizer = started(technique, sgd)
    for batch in itertools.islice(image_batches(), 4):
        before = sparsifier.masks()
        train_step(model, sparsifier, optimizer, batch)
    for weight in sparsifier.weights:
        momentum = optimizer.state[weight.parameter]["momentum_buffer"]
        assert torch.equal(momentum != 0, before[weight.name])


def test_acdc_trains_two_of_four_by_turns():
    technique = ow.ACDC(ow.Phases(0.5, begin=2, end=8, sparse=2, dense=2), allocation=ow.Uniform(), pattern=ow.NM(2, 4))
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 4)
    sparsifier = ow.sparsify(layer, technique)
    optimizer = sgd(layer.parameters())
    sparsifier.attach(optimizer)
    counts = []
    for _ in range(9):
        layer(torch.randn(5, 8)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        counts.append((layer.weight.view(4, 2, 4) != 0).sum(-1).unique().tolist())
    assert counts[1:3] == [[2], [2]]
    assert counts[7:] == [[2], [2]]
    assert 4 in counts[4]


def test_phases_want_numbers_that_give_phases():
    with raises(ValueError, "0 <= begin < end, got begin=5, end=5"):
        ow.Phases(0.9, begin=5, end=5, sparse=1, dense=1)
    with raises(ValueError, "phases must last at least 1 step, got sparse=0, dense=3"):
        ow.Phases(0.9, begin=0, end=5, sparse=0, dense=3)
    with raises(ValueError, "dense must be a whole number of steps, got 2.5; round it"):
        ow.Phases(0.9, begin=0, end=5, sparse=1, dense=2.5)
    assert [t for t in range(9) if ow.Phases(0.9, begin=0, end=3, sparse=2, dense=2).due(t)] == [3]
