"""Top-KAST: what is computed with, what is trained, what decays, and who may enter."""

import itertools

import pytest
import torch
from torch import nn

import openwork as ow
from tests.helpers import conv_net, image_batches, raises, train_step


def started(technique, weights, rate=0.1):
    layer = nn.Linear(len(weights), 1, bias=False)
    layer.weight = nn.Parameter(torch.tensor([weights]))
    sparsifier, parameter = ow.sparsify(layer, technique), next(layer.parameters())
    optimizer = torch.optim.SGD(layer.parameters(), lr=rate)
    sparsifier.attach(optimizer)
    return layer, sparsifier, parameter, optimizer


def kast(**settings):
    return ow.TopKAST(**{"sparsity": 0.75, "backward_sparsity": 0.5, "every": 1, **settings})


WEIGHTS = [4.0, -1.0, 3.0, 0.5, -2.0, 0.1, 1.5, 0.2]  # A: 4 and 3; B: -2 and 1.5, too


def test_topkast_b_is_all_that_has_a_gradient():
    layer, _, parameter, _ = started(kast(), WEIGHTS)
    x = torch.arange(1.0, 9.0).view(1, 8)
    assert layer(x).item() == 4 * 1 + 3 * 3
    layer(x).sum().backward()
    assert parameter.grad.tolist() == [[1, 0, 3, 0, 5, 0, 7, 0]]
    assert layer.eval().weight.tolist() == [[4, 0, 3, 0, 0, 0, 0, 0]]


def test_topkast_b_decays_by_the_inverse_density_where_it_is_not_a():
    _, sparsifier, parameter, _ = started(kast(coefficient=ow.Constant(0.5)), WEIGHTS)
    penalty = sparsifier.penalty()
    assert penalty.item() == 0.5 * 0.5 * (4**2 + 3**2 + (2**2 + 1.5**2) / 0.25)
    penalty.backward()
    assert parameter.grad.tolist() == [[0.5 * 4, 0, 0.5 * 3, 0, 0.5 * -2 / 0.25, 0, 0.5 * 1.5 / 0.25, 0]]


def test_topkast_b_holds_a_and_both_have_their_sizes_at_every_step():
    torch.manual_seed(0)
    model = conv_net()
    sparsifier = ow.sparsify(model, kast(sparsity=0.8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    sparsifier.attach(optimizer)
    entered = 0
    for batch in itertools.islice(image_batches(), 10):
        before = [each.A.clone() for each in sparsifier.mechanism.distributions]
        beyond = [each.B.clone() for each in sparsifier.mechanism.distributions]
        smallest = [p.parameter[a].abs().min() for p, a in zip(sparsifier.weights, before, strict=True)]
        train_step(model, sparsifier, optimizer, batch)
        for each, weight, a, b in zip(
            sparsifier.mechanism.distributions, sparsifier.weights, before, beyond, strict=True
        ):
            values = weight.parameter.detach().abs()
            assert (int(each.A.sum()), int(each.B.sum())) == {72: (14, 36), 640: (128, 320), 50: (10, 25)}[a.numel()]
            assert not (each.A & ~each.B).any()
            assert values[each.A].min() >= values[~each.A].max()
            assert b[each.A & ~a].all()  # only trained weights enter: the others stay where they are
            entered += int((each.A & ~a).sum())
    assert entered > 5
    assert len(smallest) == 3


def test_topkast_b_that_is_no_larger_than_a_gives_static_magnitude_masks():
    torch.manual_seed(0)
    model, twin = conv_net(), conv_net()
    twin.load_state_dict(model.state_dict())
    technique = kast(sparsity=0.8, backward_sparsity=0.8, every=100, coefficient=ow.Constant(0.0))
    pairs = []
    for net, chosen in ((model, technique), (twin, ow.GradualMagnitude(ow.OneShot(0.8)))):
        sparsifier = ow.sparsify(net, chosen)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        pairs.append((net, sparsifier.attach(optimizer), optimizer))
    for batch in itertools.islice(image_batches(), 4):
        for net, sparsifier, optimizer in pairs:
            train_step(net, sparsifier, optimizer, batch)
    (_, ours, _), (_, masks, _) = pairs
    assert all(torch.equal(mask, masks.masks()[name]) for name, mask in ours.masks().items())
    for name, tensor in ours.finalize().state_dict().items():
        torch.testing.assert_close(tensor, masks.finalized_copy().state_dict()[name])


def test_a_weight_enters_a_only_by_growing_beyond_its_smallest():
    _, sparsifier, parameter, optimizer = started(kast(coefficient=ow.Constant(0.0)), WEIGHTS)
    for gradient, kept in ((-9.0, [0, 2]), (-11.0, [2, 6])):  # 1.5 becomes 2.4, and then 3.5; 4 becomes 2.9
        parameter.grad = torch.zeros(1, 8)
        parameter.grad[0, 6] = gradient
        parameter.grad[0, 0] = 0.0 if kept == [0, 2] else 11.0
        optimizer.step()
        assert sparsifier.masks()["weight"][0].nonzero().flatten().tolist() == kept


def test_sets_are_chosen_each_every_steps_and_stay_from_stop_on():
    _, sparsifier, parameter, optimizer = started(kast(every=2, stop=6), WEIGHTS, rate=1.0)
    distribution = sparsifier.mechanism.distributions[0]
    seen = []
    for step in range(1, 9):
        with torch.no_grad():
            parameter.copy_(torch.roll(torch.tensor([WEIGHTS]), step, 1))
        parameter.grad = torch.zeros(1, 8)
        optimizer.step()
        seen.append((distribution.A[0].nonzero().flatten().tolist(), int(distribution.B.sum())))
    assert [a for a, _ in seen] == [[0, 2], [2, 4], [2, 4], [4, 6], [4, 6], [4, 6], [4, 6], [4, 6]]
    assert [b for _, b in seen] == [4, 4, 4, 4, 4, 2, 2, 2]


def test_without_a_backward_sparsity_all_weights_are_trained_straight_through():
    layer, _, parameter, _ = started(kast(backward_sparsity=0.0), WEIGHTS)
    layer(torch.ones(1, 8)).sum().backward()
    assert (parameter.grad == 1).all()


def test_sizes_follow_an_allocation_by_shapes():
    model = nn.Sequential(nn.Linear(100, 50), nn.Linear(50, 10))
    sparsifier = ow.sparsify(model, kast(allocation=ow.ERK()))
    kept = [int(mask.sum()) for mask in sparsifier.masks().values()]
    assert sum(kept) == 5500 // 4
    assert kept[1] == 393  # of 500: (50 + 10) / (150 + 60) of 1375


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"backward_sparsity": 0.9}, ("backward_sparsity no larger, got 0.75 and 0.9; did you pass percentages?",)),
        ({"sparsity": 1.0}, ("sparsity must be in [0, 1)", "got 1.0 and 0.5")),
        ({"every": 0}, ("every must be at least 1 step, got 0",)),
        ({"allocation": ow.GlobalRanking()}, ("GlobalRanking() needs scores", "take Uniform or ERK")),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, parts):
    with raises(ValueError, *parts):
        kast(**settings)
