"""SNIP: its scores are the loss's derivatives by the masks."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

import openwork as ow
from tests.helpers import conv_net, image_batches

SEEN = {}


class Seen(ow.SNIP):
    """SNIP that notes gradient * weight by name."""

    def scores(self, view):
        SEEN[view.name] = view.evidence["gradient"] * view.weight
        return super().scores(view)


def calibrated(model, loss, technique=ow.SNIP, **settings):
    """The masks that SNIP gives the model."""
    return ow.sparsify(model, technique(ow.OneShot(0.8), **settings), calibrate=lambda m: loss(m).backward()).masks()


def scored(model, loss):
    """gradient * weight by name, as SNIP sees them."""
    SEEN.clear()
    calibrated(model, loss, Seen)
    return dict(SEEN)


def relu_net() -> nn.Sequential:
    torch.manual_seed(0)
    first, second, last = (nn.Linear(*shape, bias=False) for shape in ((6, 8), (8, 8), (8, 3)))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last).double()


X, Y = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), torch.arange(9) % 3


def test_snip_identity_the_derivative_by_a_mask_is_gradient_times_weight_bit_for_bit():
    model = relu_net()
    masks = {name: torch.ones_like(p, requires_grad=True) for name, p in model.named_parameters()}
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    F.cross_entropy(functional_call(model, {n: w * masks[n] for n, w in weights.items()}, X), Y).backward()
    scores = scored(model, lambda m: F.cross_entropy(m(X), Y))
    assert all(torch.equal(scores[name], mask.grad) for name, mask in masks.items())


def test_snip_signed_conservation_each_bias_free_relu_layer_has_the_same_sum():
    scores = scored(relu_net(), lambda m: F.cross_entropy(m(X), Y))
    sums = [float(score.sum()) for score in scores.values()]
    assert sums == pytest.approx([sums[0]] * 3, abs=1e-12)
    absolute = [float(score.abs().sum()) for score in scores.values()]
    assert max(absolute) - min(absolute) > 0.05


def test_snip_keeps_exactly_the_global_top_k():
    model = relu_net()
    dense = {name: p.detach().clone() for name, p in model.named_parameters()}
    F.cross_entropy(model(X), Y).backward()
    scores = torch.cat([(p.grad * p.detach()).abs().flatten() for p in model.parameters()])
    model.zero_grad()
    masks = calibrated(model, lambda m: F.cross_entropy(m(X), Y))
    flat = torch.cat([mask.flatten() for mask in masks.values()])
    assert int(flat.sum()) == 27  # a fifth of 136
    assert scores[flat].min() > scores[~flat].max()
    assert all(torch.equal(p.detach(), dense[name] * masks[name]) for name, p in model.named_parameters())


def test_snip_does_not_depend_on_the_scale_of_the_loss_nor_on_a_batch_given_twice():
    plain = calibrated(relu_net(), lambda m: F.cross_entropy(m(X), Y))
    scaled = calibrated(relu_net(), lambda m: 1024 * F.cross_entropy(m(X), Y))
    twice = calibrated(relu_net(), lambda m: F.cross_entropy(m(torch.cat([X, X])), torch.cat([Y, Y])))
    for name, mask in plain.items():
        assert torch.equal(scaled[name], mask)
        assert torch.equal(twice[name], mask)


def test_snip_at_the_first_step_equals_snip_before_training_on_that_batch():
    x, y = next(image_batches())
    torch.manual_seed(0)
    early = conv_net()
    masks = calibrated(early, lambda m: F.cross_entropy(m(x), y))
    torch.manual_seed(0)
    late = conv_net()
    sparsifier = ow.sparsify(late, ow.SNIP(ow.OneShot(0.8, at=1)))
    optimizer = torch.optim.SGD(late.parameters(), lr=0.0)
    sparsifier.attach(optimizer)
    F.cross_entropy(late(x), y).backward()
    optimizer.step()
    assert all(torch.equal(sparsifier.masks()[name], mask) for name, mask in masks.items())
    assert all(torch.equal(a, b) for a, b in zip(early.parameters(), late.parameters(), strict=True))
