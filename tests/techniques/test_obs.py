"""Optimal Brain Surgeon: what the loss grows by without a weight, and how the others make up for it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import openwork as ow
from tests.helpers import raises

DOUBLE = torch.float64
VIEWS = {}


class Seen(ow.OBS):
    """OBS that notes its view and its scores by name."""

    def scores(self, view):
        VIEWS[view.name] = (view, super().scores(view))
        return VIEWS[view.name][1]


def example(outputs=2, inputs=6, samples=9):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=generator, dtype=DOUBLE)
    return weight, torch.randn(samples, outputs * inputs, generator=generator, dtype=DOUBLE)


def pruned(weight, gradients, sparsity=0.5, kind=ow.OBS, **settings):
    """The weight of a Linear that OBS has pruned by these gradients, each of a backward of its own."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False).to(weight)
    with torch.no_grad():
        layer.weight.copy_(weight)

    def run(model):
        for gradient in gradients:
            (model.weight * gradient.view_as(weight)).sum().backward()

    return ow.sparsify(layer, kind(ow.OneShot(sparsity), **settings), calibrate=run).finalize().weight.detach()


def fisher(gradients, damping):
    return damping * torch.eye(gradients.shape[1], dtype=DOUBLE) + gradients.T @ gradients / len(gradients)


def test_obs_inverse_by_the_papers_recursion_and_by_the_dense_inverse_gives_the_same_scores():
    weight, gradients = example()
    damping, m = 1e-3, len(gradients)
    recursion = torch.eye(12, dtype=DOUBLE) / damping
    for g in gradients:
        v = recursion @ g
        recursion -= torch.outer(v, v) / (m + g @ v)
    dense = torch.linalg.inv(fisher(gradients, damping))
    assert (recursion - dense).abs().max() <= 1e-10 * dense.abs().max()
    pruned(weight, gradients, kind=Seen, block=12, damping=damping)
    expected = weight.flatten().square() / (2 * recursion.diagonal())
    torch.testing.assert_close(VIEWS["weight"][1].flatten(), expected, rtol=1e-10, atol=0)


def test_obs_inverse_of_blocks_is_that_of_each_block_also_of_the_last_short_one():
    weight, gradients = example()
    pruned(weight, gradients, kind=Seen, block=5, damping=1e-3)
    dense = fisher(gradients, 1e-3)
    diagonal = [torch.linalg.inv(dense[b:e, b:e]).diagonal() for b, e in ((0, 5), (5, 10), (10, 12))]
    expected = weight.flatten().square() / (2 * torch.cat(diagonal))
    torch.testing.assert_close(VIEWS["weight"][1].flatten(), expected, rtol=1e-10, atol=0)


def test_obs_magnitude_limit_without_gradients_the_largest_weights_stay_as_they_are():
    weight, _ = example(4, 25)
    found = pruned(weight, torch.zeros(3, 100, dtype=DOUBLE), 0.7)
    magnitude = nn.Linear(25, 4, bias=False).double()
    with torch.no_grad():
        magnitude.weight.copy_(weight)
    ow.sparsify(magnitude, ow.GradualMagnitude(ow.OneShot(0.7))).finalize()
    assert torch.equal(found, magnitude.weight)


def test_the_loss_of_a_quadratic_grows_by_what_the_scores_say():
    weight, gradients = example()
    found = pruned(weight, gradients, 1 / 12, kind=Seen, block=12, damping=1e-3)
    (removed,) = (found.flatten() == 0).nonzero().flatten().tolist()
    change = (found - weight).flatten()
    assert float(change @ fisher(gradients, 1e-3) @ change / 2) == pytest.approx(
        float(VIEWS["weight"][1].min()), rel=1e-9
    )
    dense = torch.linalg.inv(fisher(gradients, 1e-3))
    update = -weight.flatten()[removed] / dense[removed, removed] * dense[:, removed]  # the papers' formula
    torch.testing.assert_close(change, update, rtol=1e-8, atol=1e-12)
    assert float(found.flatten()[removed]) == 0


def test_the_kept_weights_are_at_the_minimum_of_the_quadratic():
    weight, gradients = example()
    found = pruned(weight, gradients, 0.5, block=12, damping=1e-3)
    slope = fisher(gradients, 1e-3) @ (found - weight).flatten()
    assert float(slope[found.flatten() != 0].abs().max()) <= 1e-10
    plain = torch.where(found != 0, weight, 0)  # the same mask, and no update
    growth = [float((w - weight).flatten() @ fisher(gradients, 1e-3) @ (w - weight).flatten()) for w in (found, plain)]
    assert growth[0] < 0.9 * growth[1]


def test_scores_follow_a_permutation_inside_a_block():
    weight, gradients = example()
    order = torch.cat([torch.randperm(6, generator=torch.Generator().manual_seed(s)) + 6 * s for s in (0, 1)])
    pruned(weight, gradients, kind=Seen, block=6)
    scores = VIEWS["weight"][1].flatten()
    pruned(weight.flatten()[order].view(2, 6), gradients[:, order], kind=Seen, block=6)
    torch.testing.assert_close(VIEWS["weight"][1].flatten(), scores[order], rtol=1e-7, atol=0)


def test_a_loss_grows_less_than_under_magnitudes_and_less_with_the_update():
    torch.manual_seed(0)
    x = torch.randn(200, 20) @ torch.randn(20, 20)  # inputs that depend on each other
    layer = nn.Linear(20, 4, bias=False)
    y = layer(x).detach() + torch.randn(200, 4)
    state = layer.state_dict()

    def backward(model):
        for one, target in zip(x, y, strict=True):
            F.mse_loss(model(one), target).backward()

    def grown(technique, calibrate=None):
        model = nn.Linear(20, 4, bias=False)
        model.load_state_dict(state)
        ow.sparsify(model, technique, calibrate=calibrate).finalize()
        return F.mse_loss(model(x), layer(x)).item()

    half = ow.OneShot(0.5)
    obs, rounds = (grown(ow.OBS(half, block=20, rounds=r), backward) for r in (1, 5))
    assert rounds < obs < 0.8 * grown(ow.GradualMagnitude(half))


@pytest.mark.parametrize(
    ("make", "shape"),
    [(lambda: nn.Linear(8, 6), (5, 8)), (lambda: nn.Conv2d(8, 6, (1, 3)), (2, 8, 4, 5))],
    ids=["linear", "conv"],
)
@pytest.mark.parametrize(
    "pattern", [ow.NM(2, 4), ow.PerOutput(), ow.Block(2, 1), ow.Rows(), ow.Unstructured()], ids=repr
)
def test_obs_of_every_pattern_has_it_and_changes_kept_weights(pattern, make, shape):
    layer = make()
    before = layer.weight.detach().clone()

    def run(model):
        for x in torch.randn(4, *shape):
            model(x).square().mean().backward()

    masks = ow.sparsify(layer, ow.OBS(ow.OneShot(0.5), pattern=pattern), calibrate=run).masks()
    assert int(masks["weight"].sum()) == layer.weight.numel() // 2
    assert torch.equal(layer.weight != 0, masks["weight"])
    assert not torch.equal(layer.weight, before * masks["weight"])
    if isinstance(pattern, ow.NM):
        assert ((layer.weight != 0).unflatten(1, (-1, 4)).sum(2) == 2).all()


def test_zeros_that_stay_take_no_part():
    weight, gradients = example()
    weight[:, :2] = 0
    layer = nn.Linear(6, 2, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(weight)

    def run(model):
        for gradient in gradients:
            (model.weight * gradient.view(2, 6)).sum().backward()

    technique = ow.OBS(ow.OneShot(0.5), block=12, damping=1e-3)
    found = ow.sparsify(layer, technique, keep_zeros=True, calibrate=run).finalize().weight
    assert (found[:, :2] == 0).all()
    assert int((found != 0).sum()) == 6
    slope = fisher(gradients * (weight.flatten() != 0), 1e-3) @ (found - weight).flatten()
    assert float(slope[found.flatten() != 0].detach().abs().max()) <= 1e-10


def test_global_ranking_compares_the_scores_of_all_layers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

    def run(model):
        for x in torch.randn(30, 1, 6):
            F.cross_entropy(model(x), torch.tensor([0])).backward()

    masks = ow.sparsify(model, Seen(ow.OneShot(0.5), allocation=ow.GlobalRanking()), calibrate=run).masks()
    scores = torch.cat([VIEWS[name][1].flatten() for name in masks])
    kept = torch.cat([mask.flatten() for mask in masks.values()])
    assert int(kept.sum()) == 36
    assert scores[kept].min() > scores[~kept].max()


def test_numbers_and_gradients_that_make_no_sense_are_refused():
    weight, gradients = example()
    for settings, words in (
        ({"block": 0}, "block must be a whole number of at least 1, got 0; oBERT has 50"),
        ({"damping": 0.0}, "damping must be above 0, got 0.0; oBERT has 1e-7"),
    ):
        with raises(ValueError, words):
            ow.OBS(ow.OneShot(0.5), **settings)
    gradients[3, 2] = torch.nan
    with raises(ValueError, "the gradients of weight are NaN, infinite or too large for damping=1e-07; check the"):
        pruned(weight, gradients)
