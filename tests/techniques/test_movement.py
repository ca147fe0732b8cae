"""Movement pruning: its scores are those of gradient descent on a straight-through mask."""

import itertools

import torch
from torch import nn
from torch.nn import functional as F

import openwork as ow
from tests.helpers import conv_net, image_batches, train_step


def movement(sparsifier, name="weight"):
    return sparsifier.state_dict()["evidence"][name]["movement"]


def test_movement_s_after_one_step_of_gradient_descent_is_minus_rate_times_gradient_times_weight():
    torch.manual_seed(0)
    layer = nn.Linear(6, 4, bias=False)
    sparsifier = ow.sparsify(layer, ow.Movement(ow.Cubic(0.5, begin=2, end=4, every=1)))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    assert not movement(sparsifier).any()
    weight = layer.weight.detach().clone()
    layer(torch.randn(5, 6)).square().sum().backward()
    gradient = layer.weight.grad.clone()
    optimizer.step()
    assert torch.equal(movement(sparsifier), -weight * gradient)


def test_movement_s_follows_a_straight_through_mask_also_where_it_is_zero():
    torch.manual_seed(0)
    layer = nn.Linear(6, 4, bias=False)
    sparsifier = ow.sparsify(layer, ow.Movement(ow.Linear(0.5, end=6, every=1)))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    weight, s = layer.weight.detach().clone(), torch.zeros(4, 6)
    for step in range(1, 9):
        x = torch.randn(5, 6)
        mask = sparsifier.masks()["weight"]
        gate = mask.float().requires_grad_()  # dL/dS is dL/dgate
        raw = weight.clone().requires_grad_()
        (x @ (raw * gate).T).square().sum().backward()
        layer(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        s -= gate.grad
        weight -= 0.1 * raw.grad  # masked weights have no gradient
        torch.testing.assert_close(movement(sparsifier), s)
        kept = 24 - int(24 * min(step, 6) / 12)
        mask = torch.zeros(24, dtype=torch.bool)
        mask[s.flatten().topk(kept).indices] = True
        assert torch.equal(sparsifier.masks()["weight"].flatten(), mask)
        torch.testing.assert_close(layer.weight.detach(), weight * mask.view(4, 6))


def test_movement_keeps_weights_that_move_away_from_zero_whatever_their_size():
    layer = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[9.0, 0.1, -9.0, -0.1]]))
    sparsifier = ow.sparsify(layer, ow.Movement(ow.OneShot(0.5, at=1)))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
    sparsifier.attach(optimizer)
    layer.weight.grad = torch.tensor([[1.0, -1.0, -1.0, 1.0]])  # towards zero, away, towards, away
    optimizer.step()
    assert sparsifier.masks()["weight"].tolist() == [[False, True, False, True]]


def test_movement_topk_is_exact_in_every_layer():
    torch.manual_seed(0)
    model = conv_net()
    schedule = ow.Cubic(0.9, begin=1, end=7, every=1)
    sparsifier = ow.sparsify(model, ow.Movement(schedule))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    sparsifier.attach(optimizer)
    for step, batch in enumerate(itertools.islice(image_batches(), 9), 1):
        train_step(model, sparsifier, optimizer, batch)
        kept = [int(mask.sum()) for mask in sparsifier.masks().values()]
        assert kept == [int(n * (1 - schedule(step)) + 1e-6) for n in (72, 640, 50)]


def test_movement_s_of_accumulated_batches_is_that_of_their_sum():
    def trained(parts):
        torch.manual_seed(0)
        model = conv_net().double()
        sparsifier = ow.sparsify(model, ow.Movement(ow.Linear(0.5, end=4, every=1)))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sparsifier.attach(optimizer)
        for x, y in itertools.islice(image_batches(), 4):
            for part, target in zip(x.double().chunk(parts), y.chunk(parts), strict=True):
                (F.cross_entropy(model(part), target) / parts).backward()
            optimizer.step()
            optimizer.zero_grad()
        return sparsifier

    whole, accumulated = trained(1), trained(4)
    for name, mask in whole.masks().items():
        assert torch.equal(accumulated.masks()[name], mask)
        torch.testing.assert_close(movement(accumulated, name), movement(whole, name))
