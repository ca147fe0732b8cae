"""FORCE and iterated SNIP: gradients of what is left, in many rounds before training."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import openwork as ow
from tests.helpers import raises

X, Y = torch.randn(20, 6, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 3


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3))


def backward(model):
    F.cross_entropy(model(X), Y).backward()


def counted(technique, model=None):
    """How many weights were left whenever the calibration ran, and the sparsifier."""
    left = []

    def run(model):
        left.append(sum(int((p != 0).sum()) for name, p in model.named_parameters() if "weight" in name))
        backward(model)

    return left, ow.sparsify(net() if model is None else model, technique, calibrate=run)


@pytest.mark.parametrize("kind", [ow.SNIP, ow.FORCE])
def test_each_round_keeps_the_same_fraction_of_what_is_left(kind):
    left, sparsifier = counted(kind(ow.OneShot(0.9375), rounds=4))
    assert left == [580, 290, 145, 72]  # of 580 weights a half, a quarter, an eighth; and 36 in the end
    assert sum(int(mask.sum()) for mask in sparsifier.masks().values()) == 36


def by_hand(model, keeps, *, comes_back):
    """The masks after rounds in which so many weights with the largest |g w| are kept."""
    weights = [p for name, p in model.named_parameters() if "weight" in name]
    first = [weight.detach().clone() for weight in weights]
    masks = [torch.ones_like(weight, dtype=torch.bool) for weight in weights]
    for keep in keeps:
        model.zero_grad()
        backward(model)
        scores = [(weight.grad * value).abs() for weight, value in zip(weights, first, strict=True)]
        if not comes_back:
            scores = [torch.where(mask, score, -1.0) for mask, score in zip(masks, scores, strict=True)]
        least = torch.cat([score.flatten() for score in scores]).topk(keep).values.min()
        masks = [score >= least for score in scores]
        with torch.no_grad():
            for weight, value, mask in zip(weights, first, masks, strict=True):
                weight.copy_(value * mask)
    return masks


@pytest.mark.parametrize("kind", [ow.SNIP, ow.FORCE])
def test_rounds_by_hand(kind):
    _, sparsifier = counted(kind(ow.OneShot(0.9375), rounds=4))
    expected = by_hand(net(), [290, 145, 72, 36], comes_back=kind is ow.FORCE)
    for mask, found in zip(expected, sparsifier.masks().values(), strict=True):
        assert torch.equal(mask, found)


def test_a_weight_that_force_removed_comes_back_with_the_value_that_it_had():
    dense = net()
    values = {name: p.detach().clone() for name, p in dense.named_parameters()}
    seen = []

    def run(model):
        seen.append({name: p != 0 for name, p in model.named_parameters() if "weight" in name})
        backward(model)

    masks = ow.sparsify(dense, ow.FORCE(ow.OneShot(0.8), rounds=10), calibrate=run).masks()
    back = {name: masks[name] & ~torch.stack([each[name] for each in seen]).all(0) for name in masks}
    assert sum(int(each.sum()) for each in back.values()) > 0
    for name, mask in masks.items():
        assert torch.equal(dict(dense.named_parameters())[name], values[name] * mask)


def test_one_round_of_force_is_snip():
    _, force = counted(ow.FORCE(ow.OneShot(0.8), rounds=1))
    _, snip = counted(ow.SNIP(ow.OneShot(0.8)))
    assert all(torch.equal(mask, snip.masks()[name]) for name, mask in force.masks().items())


@pytest.mark.parametrize("kind", [ow.SNIP, ow.FORCE])
def test_a_round_that_fails_gives_the_weights_their_values_back(kind):
    model, calls = net(), []
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def run(model):
        calls.append(1)
        if len(calls) == 3:
            assert (model[0].weight == 0).any()
            raise KeyError("no third batch")
        backward(model)

    with pytest.raises(KeyError, match="no third batch"):
        ow.sparsify(model, kind(ow.OneShot(0.8), rounds=4), calibrate=run)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    ow.sparsify(model, kind(ow.OneShot(0.8), rounds=4), calibrate=backward)  # nothing holds it


def test_an_empty_layer_is_reported():
    def without_inputs(model):  # so that no gradient reaches the first weights
        F.cross_entropy(model(torch.zeros_like(X)), Y).backward()

    with pytest.warns(UserWarning, match=r"0\.weight keeps no weight"):
        ow.sparsify(net(), ow.SNIP(ow.OneShot(0.9)), calibrate=without_inputs)


def test_rounds_that_nobody_would_see_and_numbers_that_are_none():
    with raises(ValueError, "SNIP chooses masks in 3 rounds before training", "give it OneShot(0.9), or rounds=1"):
        ow.sparsify(net(), ow.SNIP(ow.Cubic(0.9, end=10), rounds=3))
    with raises(ValueError, "FORCE chooses masks in 60 rounds before training"):
        ow.sparsify(net(), ow.FORCE(ow.OneShot(0.9, at=1)))
    for rounds in (0, -1, 2.5, "3"):
        with raises((ValueError, TypeError), "rounds must be a whole number of at least 1, got"):
            ow.sparsify(net(), ow.SNIP(ow.OneShot(0.9), rounds=rounds), calibrate=backward)
