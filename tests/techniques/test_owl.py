"""OWL: blocks with many outliers keep more."""

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.techniques.owl import block_of


def scores(*outliers):
    """Two tensors of 50 weights for each block, with so many outliers."""
    found = {}
    for block, number in enumerate(outliers):
        values = torch.ones(100)
        values[:number] = 100.0
        first, second = values.view(2, 50)
        found |= {f"h.{block}.a.weight": first, f"h.{block}.b.weight": second}
    return found


def kept(counts):
    """The number kept of each block."""
    values = list(counts.values())
    return [a + b for a, b in zip(values[::2], values[1::2], strict=True)]


def test_owl_mean_density_is_exact_and_they_span_two_lambda():
    # Means 1, 2.98, 4.96: outliers are 0, 2 and 4 of 100; densities 0.3 + 0, 0.08, 0.16, less the mean 0.08
    assert kept(ow.OWL()(scores(0, 2, 4), 0.7, 0.7)) == [22, 30, 38]
    assert kept(ow.OWL(spread=0.1)(scores(4, 0, 2), 0.5, 0.5)) == [60, 40, 50]
    for sparsity in (0.0, 0.003, 0.31, 0.9, 0.97, 0.999):
        found = ow.OWL()(scores(0, 2, 3, 4), sparsity, sparsity)
        assert sum(found.values()) == int(400 * (1 - sparsity) + 1e-6)
        assert all(0 <= number <= 50 for number in found.values())


def test_owl_equal_blocks_are_uniform():
    assert kept(ow.OWL()(scores(3, 3, 3), 0.7, 0.7)) == [30, 30, 30]
    assert kept(ow.OWL(outliers=1e6)(scores(0, 2, 4), 0.7, 0.7)) == [30, 30, 30]
    assert kept(ow.OWL()(scores(2), 0.7, 0.7)) == [30]


def test_owl_all_weights_of_a_block_have_one_sparsity_whatever_their_sizes():
    found = {"h.0.a": torch.ones(60, 5), "h.0.b": torch.ones(100), "h.1.a": torch.ones(200)}
    found["h.1.a"][:3] = 1000
    counts = ow.OWL()(found, 0.5, 0.5)
    assert counts["h.0.a"] / 300 == pytest.approx(counts["h.0.b"] / 100, abs=0.011)
    assert sum(counts.values()) == 300
    assert counts["h.1.a"] / 200 - counts["h.0.b"] / 100 == pytest.approx(0.16, abs=0.011)


def test_owl_blocks_go_by_the_first_number_of_a_name():
    assert block_of("encoder.layer.3.attention.self.query.weight") == "encoder.layer.3"
    assert block_of("model.layers.11.mlp.experts.7.w1.weight") == "model.layers.11"
    assert block_of("fc1.weight") == "fc1"
    assert block_of("weight") == ""


@pytest.mark.parametrize("technique", [ow.Wanda, ow.SparseGPT, ow.ADMM, ow.ALPS, ow.RIA, ow.DSnoT])
def test_owl_goes_with_every_one_shot_technique(technique):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
    with torch.no_grad():
        model[2].weight[:, :2] *= 20  # outliers
    x = torch.randn(100, 32)
    pruned = ow.prune(model, technique(ow.OneShot(0.7), allocation=ow.OWL()), calibrate=lambda model: model(x))
    assert pruned.sparsity == pytest.approx(0.7, abs=1e-4)
    densities = [float((layer.weight != 0).float().mean()) for layer in model if isinstance(layer, nn.Linear)]
    assert densities[1] == max(densities)
    assert max(densities) - min(densities) == pytest.approx(0.16, abs=0.01)


def test_owl_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"spread in \[0, 0.5\], got outliers=5.0 and spread=0.8"):
        ow.OWL(spread=0.8)
