"""GraSP: its scores are -w (Hg), and the smallest of them stay."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import openwork as ow
from tests.helpers import raises

SEEN = {}


class Seen(ow.GraSP):
    """GraSP that notes w (Hg) by name."""

    def scores(self, view):
        SEEN[view.name] = super().scores(view)
        return SEEN[view.name]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)).double()


X, Y = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), torch.arange(9) % 3


def scored(calibrate, **settings):
    """w (Hg) of all weights of `net`, flat, and the sparsifier's masks."""
    SEEN.clear()
    settings = {"temperature": 1} | settings
    masks = ow.sparsify(net(), Seen(ow.OneShot(0.5), **settings), calibrate=calibrate).masks()
    return torch.cat([score.flatten() for score in SEEN.values()]), masks


def loss(model):
    return F.cross_entropy(model(X), Y)


def gradient(model):
    weights = [p for name, p in model.named_parameters() if name.endswith("weight")]
    return weights, torch.autograd.grad(loss(model), weights)


def flat(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def test_grasp_both_passes_drop_the_same_units():
    drawn = []

    def dropped(model):
        kept = F.dropout(torch.ones(9, 8, dtype=torch.float64))
        drawn.append(kept)
        return F.cross_entropy(model[2:](model[1](model[0](X)) * kept), Y)

    scored(dropped)
    assert len(drawn) == 2
    assert torch.equal(*drawn)


def test_grasp_a_loader_that_shuffles_gives_both_passes_the_same_batches():
    loader, drawn = torch.utils.data.DataLoader(range(9), batch_size=3, shuffle=True), []

    def batches(model):
        for places in loader:
            drawn.append(places.tolist())
            yield F.cross_entropy(model(X[places]), Y[places])

    scored(batches)
    assert drawn[:3] == drawn[3:]
    assert len(drawn) == 6


def test_grasp_fd_the_scores_are_w_times_finite_differences_of_the_gradient_along_itself():
    model, eps = net(), 1e-3
    weights, g = gradient(model)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for weight, one in zip(weights, g, strict=True):
                weight += sign * eps * one
        ends.append(flat(gradient(model)[1]))
        with torch.no_grad():
            for weight, one in zip(weights, g, strict=True):
                weight -= sign * eps * one
    expected = flat(weights) * (ends[0] - ends[1]) / (2 * eps)
    found, _ = scored(loss)
    assert (found - expected).norm() <= 1e-6 * expected.norm()


def test_grasp_scores_sum_to_w_times_hg_and_both_signs_occur():
    found, _ = scored(loss)
    model = net()
    weights, _ = gradient(model)
    g = torch.autograd.grad(loss(model), weights, create_graph=True)
    weighted = sum((a * b.detach()).sum() for a, b in zip(g, weights, strict=True))  # (w . g), whose gradient is Hw
    product = sum((h * b).sum() for h, b in zip(torch.autograd.grad(weighted, weights), g, strict=True))
    assert float(found.sum()) == pytest.approx(float(product.detach()), rel=1e-12)  # gHw = wHg: H is symmetric
    assert 0.1 < float((found < 0).double().mean()) < 0.9


def test_grasp_removes_a_weight_of_which_the_gradient_flow_can_do_without():
    model = net()
    weights, g = gradient(model)
    before = sum(one.square().sum() for one in g) / 2
    found, _ = scored(loss)
    weight, tiny = weights[1], 1e-7  # removing the part tiny of w changes |g|^2 / 2 by -tiny w (Hg)
    place = int(found[48:112].abs().argmax())
    with torch.no_grad():
        weight.view(-1)[place] *= 1 - tiny
    after = sum(one.square().sum() for one in gradient(model)[1]) / 2
    assert float((after - before) / tiny) == pytest.approx(-float(found[48 + place]), rel=1e-4)


def test_grasp_keeps_exactly_the_largest_w_times_hg_of_all_layers():
    found, masks = scored(loss)
    kept = torch.cat([mask.flatten() for mask in masks.values()])
    assert int(kept.sum()) == 68  # half of 136
    assert found[kept].min() > found[~kept].max()


def test_grasp_of_several_losses_is_that_of_their_sum():
    def parts(model):
        for some in (slice(0, 4), slice(4, 9)):
            yield F.cross_entropy(model(X[some]), Y[some], reduction="sum")

    whole, _ = scored(lambda model: F.cross_entropy(model(X), Y, reduction="sum"))
    found, _ = scored(parts)
    torch.testing.assert_close(found, whole, rtol=1e-10, atol=0)


def test_grasp_divides_the_logits_by_its_temperature():
    hot, _ = scored(loss, temperature=200.0)
    by_hand, _ = scored(lambda model: F.cross_entropy(model(X) / 200, Y))
    torch.testing.assert_close(hot, by_hand, rtol=1e-12, atol=0)
    with raises(ValueError, "temperature must be above 0, got 0"):
        ow.GraSP(ow.OneShot(0.5), temperature=0)


def test_grasp_says_where_it_cannot_divide_the_logits():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 3).double()

        def forward(self, x):
            return {"logits": self.layer(x)}

    grasp = ow.GraSP(ow.OneShot(0.5))
    with raises(TypeError, "divides the model's outputs by its temperature 200, and these are a dict; divide"):
        ow.sparsify(Named(), grasp, calibrate=lambda model: F.cross_entropy(model(X)["logits"], Y))
    with raises(ValueError, "GraSP divides the model's outputs, and the calibration never called the model"):
        ow.sparsify(Named(), grasp, calibrate=lambda model: F.cross_entropy(model.layer(X), Y))
    cold = ow.GraSP(ow.OneShot(0.5), temperature=1)
    ow.sparsify(Named(), cold, calibrate=lambda model: F.cross_entropy(model(X)["logits"], Y))


def test_grasp_of_a_loss_without_curvature_keeps_any_weights():
    layer = nn.Linear(4, 2, bias=False)
    grasp = ow.GraSP(ow.OneShot(0.5), temperature=1)
    sparsifier = ow.sparsify(layer, grasp, calibrate=lambda model: model(torch.ones(1, 4)).sum())
    assert sparsifier.sparsity() == 0.5


def test_a_loss_that_grasp_cannot_use_is_refused_and_nothing_changes():
    for run, kind, words in [
        (
            lambda m: None,
            TypeError,
            "must return a loss, got a NoneType; pass calibrate=lambda model: loss(model(x), y)",
        ),
        (lambda m: loss(m).item(), TypeError, "must return a loss, got a float"),
        (lambda m: m(X), ValueError, "must return a loss of shape (), got one of (9, 3)"),
        (lambda m: loss(m).detach(), ValueError, "must return a loss with a graph; leave out detach()"),
        (lambda m: loss(m) * torch.nan, ValueError, "returned a loss of nan; check its batch"),
        (lambda m: loss(m) / 0, ValueError, "returned a loss of inf"),
        (lambda m: iter([]), ValueError, "returned an iterator without items; yield a loss a batch"),
        (lambda m: F.cross_entropy(m[:3](X), Y), ValueError, "does not depend on 4.weight; leave it out with select="),
        (None, ValueError, "GraSP measures a loss before training; pass calibrate=lambda model: loss(model(x), y)"),
    ]:
        model = net()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with raises(kind, words):
            ow.sparsify(model, ow.GraSP(ow.OneShot(0.5), temperature=1), calibrate=run)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with raises(ValueError, "GraSP prunes once, by what a calibration shows before training", "give it OneShot(0.5)"):
        ow.sparsify(net(), ow.GraSP(ow.OneShot(0.5, at=1)), calibrate=loss)
