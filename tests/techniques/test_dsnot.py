"""DSnoT: exchanges of weights until every output keeps its mean."""

import itertools

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.techniques.dsnot import InputMoments
from tests.techniques.one_shot import HALF, example, solved


def shifted():
    """Inputs with means, without which there is nothing to do."""
    weight, x = example()
    return weight, x + torch.linspace(-1, 2, 48, dtype=x.dtype)


def lost(found, weight, x):
    """How much less each output is on average."""
    return ((weight - found) @ x.mean(0)).abs()


@pytest.mark.parametrize("start", ["wanda", "magnitude"])
def test_dsnot_row_counts_stay_and_no_output_comes_to_lie_further_off(start):
    weight, x = shifted()
    errors = []
    for steps in (0, 1, 2, 5, 50):
        found = solved(weight, x, ow.DSnoT(HALF, start=start, steps=steps))
        assert (found != 0).sum(1).tolist() == [24] * 24
        assert torch.equal(found[found != 0], weight[found != 0])
        errors.append(lost(found, weight, x))
    for before, after in itertools.pairwise(errors):
        assert (after <= before + 1e-9).all()
    assert errors[-1].mean() < 0.5 * errors[0].mean()


def test_dsnot_without_exchanges_is_its_first_mask():
    weight, x = shifted()
    assert torch.equal(solved(weight, x, ow.DSnoT(HALF, steps=0)), solved(weight, x, ow.Wanda(HALF)))
    assert torch.equal(solved(weight, x, ow.DSnoT(HALF, tolerance=1e9)), solved(weight, x, ow.Wanda(HALF)))


def test_dsnot_by_hand():
    weight = torch.tensor([[5.0, 1.0, 2.0, -3.0]])
    x = torch.tensor([[1.0, 2.0, 1.0, 1.0], [1.0, 0.0, 1.0, 1.1]])  # means 1, 1, 1, 1.05
    # Wanda keeps 5 and -3 of 7.1, 2, 2.8, 4.5, and 1 + 2 are lost; 2 would come back and -3 go: 3 - 2 - 3.15 = -2.15
    assert solved(weight, x, ow.DSnoT(HALF, steps=1)).tolist() == [[5.0, 0.0, 2.0, 0.0]]
    # -1 alone would be a step from 1 to -3.15 + 2: further off, so that nothing is exchanged
    closer = torch.tensor([[5.0, 1.0, 0.1, -3.0]])
    assert solved(closer, x, ow.DSnoT(HALF, steps=1)).tolist() == [[5.0, 0.0, 0.0, -3.0]]


@pytest.mark.parametrize("pattern", [ow.NM(2, 4), ow.NM(4, 8), ow.PerOutput(), ow.Unstructured()], ids=repr)
@pytest.mark.parametrize("layer", [nn.Linear(16, 8), nn.Conv2d(16, 8, 3)], ids=["linear", "conv"])
def test_dsnot_exchanges_within_the_groups_of_its_pattern(layer, pattern):
    torch.manual_seed(0)
    x = torch.randn(40, 16) + 1 if isinstance(layer, nn.Linear) else torch.randn(3, 16, 5, 5) + 1
    layer = nn.Sequential(layer)[0].requires_grad_(True)
    weight = nn.init.normal_(layer.weight).detach().clone()
    masks = []
    for steps in (0, 50):
        with torch.no_grad():
            layer.weight.copy_(weight)
        technique = ow.DSnoT(HALF, pattern=pattern, steps=steps, tolerance=0.0)
        ow.sparsify(layer, technique, calibrate=lambda model: model(x)).finalize()
        masks.append(layer.weight != 0)
    before, after = masks
    assert not torch.equal(before, after)
    assert torch.equal(before.flatten(1).sum(1), after.flatten(1).sum(1))
    if isinstance(pattern, ow.NM):
        assert (after.unflatten(1, (-1, pattern.m)).sum(2) == pattern.n).all()


def test_dsnot_variances_survive_a_mean_that_is_far_from_0():
    x = 100 + 0.1 * torch.randn(262_144, 4, generator=torch.Generator().manual_seed(0))
    kept = {}
    for rows in x.split(65_536):
        InputMoments(inputs=True).input(kept, rows)
    mean = kept["sums"] / kept["rows"]
    variance = kept["squares"] / kept["rows"] - mean.square()
    torch.testing.assert_close(variance.double(), x.double().var(0, correction=0), rtol=1e-6, atol=0)


def test_dsnot_keeps_zeros_of_the_model():
    weight, x = shifted()
    weight[:, ::3] = 0
    found = solved(weight, x, ow.DSnoT(HALF, tolerance=0.0), keep_zeros=True)
    assert (found[:, ::3] == 0).all()
    assert (found != 0).sum(1).tolist() == [24] * 24


def test_dsnot_refuses_blocks_and_unknown_beginnings():
    weight, x = shifted()
    with pytest.raises(ValueError, match=r"exchanges single weights, and Block\(.*\) keeps several together"):
        solved(weight, x, ow.DSnoT(HALF, pattern=ow.Block(1, 4)))
    with pytest.raises(ValueError, match="start must be 'wanda' or 'magnitude', got 'obs'"):
        ow.DSnoT(HALF, start="obs")
