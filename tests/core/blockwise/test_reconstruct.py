"""Least-squares weights for the zeros of a model."""

import copy

import pytest
import torch
from torch import nn

import openwork as ow
from tests.core.blockwise.models import HALF, ids, stack
from tests.core.blockwise.test_prune import equal


def zeros(model):
    return {name: value == 0 for name, value in model.state_dict().items()}


def same_zeros(one, other):
    return all(torch.equal(a, b) for a, b in zip(zeros(one).values(), zeros(other).values(), strict=True))


def test_the_kept_weight_is_that_of_least_squares():
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 1.0]]))
    dense, x = copy.deepcopy(model), torch.tensor([[1.0, 1.0], [1.0, -0.5]])
    with torch.no_grad():
        model[0].weight[0, 1] = 0
    (layer,) = ow.reconstruct(model, dense, [x]).layers
    # X X^T = [[2, 0.5], [0.5, 1.25]], and 0.01 of the mean of its diagonal on it: w = 3 + 0.5 * 1 / 2.01625
    assert model[0].weight.tolist() == [[pytest.approx(3 + 0.5 / 2.01625, abs=1e-5), 0.0]]
    assert layer.error < layer.masked_error


@pytest.mark.parametrize("technique", [HALF, ow.GradualMagnitude(ow.OneShot(0.5)), ow.RandomPruning(ow.OneShot(0.5))])
def test_errors_fall_and_zeros_stay_bit_for_bit(technique):
    masked, fitted = stack(), stack()
    ow.prune(masked, technique, select="layers", **({"batches": ids()} if technique == HALF else {}))
    result = ow.prune(fitted, technique, batches=ids(), reconstruct=True)
    assert all(layer.error < layer.masked_error for layer in result.layers)
    assert result.sparsity == 0.5
    if technique != HALF:  # Wanda sees other inputs in the second block
        assert same_zeros(masked, fitted)


def test_it_can_follow_any_technique():
    dense = stack()
    model = copy.deepcopy(dense)
    ow.prune(model, ow.GradualMagnitude(ow.OneShot(0.7), allocation=ow.GlobalRanking()), select="layers")
    before = copy.deepcopy(model)
    result = ow.reconstruct(model, dense.state_dict(), ids())
    assert same_zeros(model, before)
    assert all(layer.error < layer.masked_error for layer in result.layers)
    assert result.skipped["head.weight"] == "it has no zeros"
    assert "mask alone" in result.table()


def test_a_convolution_is_fitted_over_its_patches():
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3))
    model, x = copy.deepcopy(dense), torch.randn(8, 2, 9, 9)
    ow.prune(model, ow.GradualMagnitude(ow.OneShot(0.6)))
    before = copy.deepcopy(model)
    (first, _) = ow.reconstruct(model, dense, [x]).layers
    with torch.no_grad():
        lost = [((each[0](x) - dense[0](x)) ** 2).sum() for each in (before, model)]
        whole = ((dense[0](x) - dense[0].bias[:, None, None]) ** 2).sum()
    assert same_zeros(model, before)
    assert first.masked_error == pytest.approx(float(lost[0] / whole), rel=0.1)  # of 392 rows as they are
    assert first.error == pytest.approx(float(lost[1] / whole), rel=0.1)
    assert lost[1] < lost[0]


def test_dense_must_be_the_model_before_it_was_pruned():
    model = stack()
    with pytest.raises(ValueError, match="no selected weight has zeros; prune the model first"):
        ow.reconstruct(model, stack(), ids())
    ow.prune(model, HALF, batches=ids())
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match=r"dense holds the same layers\.0\.up\.weight as the model; pass a copy"):
        ow.reconstruct(model, model, ids())
    with pytest.raises(ValueError, match=r"has the shape \(16, 8\), and dense has the shape \(12, 6\) there"):
        ow.reconstruct(model, stack(width=6), ids())
    with pytest.raises(ValueError, match=r"has the shape \(16, 8\), and dense has none; pass the same model"):
        ow.reconstruct(model, nn.Linear(2, 2), ids())
    with pytest.raises(TypeError, match="dense must be the model without zeros or its state dict, got a list"):
        ow.reconstruct(model, [], ids())
    assert equal(model, before)


def test_prune_says_what_cannot_be_reconstructed():
    with pytest.raises(ValueError, match="SNIP must see its inputs in batches and nothing else"):
        ow.prune(stack(), ow.SNIP(ow.OneShot(0.5)), batches=ids(), reconstruct=True)
    with pytest.raises(ValueError, match="Wanda must see its inputs in batches and nothing else; leave out calibrate"):
        ow.prune(stack(), HALF, batches=ids(), reconstruct=True, calibrate=lambda model: model(ids()[0]))
    with pytest.raises(ValueError, match="reconstruct is for pruning block after block by inputs"):
        ow.prune(stack(), HALF, reconstruct=True)
