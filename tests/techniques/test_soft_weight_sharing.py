import math

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, Normal

import openwork as ow

TECHNIQUE = ow.SoftWeightSharing(ow.Constant(0.5), components=4)


def two_layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


def test_the_penalty_is_the_log_density_of_a_mixture_and_the_hyper_priors_once():
    model = two_layers()
    sparsifier = ow.sparsify(model, TECHNIQUE)
    mixture = model[0].reparam.weight.mixture
    assert model[2].reparam.weight.mixture is mixture
    torch.testing.assert_close(mixture.means(), torch.tensor([0.0, -0.6, 0.0, 0.6]))
    proportions = torch.tensor([0.99, 0.01 / 3, 0.01 / 3, 0.01 / 3])
    torch.testing.assert_close(mixture.log_proportions().exp(), proportions)
    density = MixtureSameFamily(Categorical(proportions), Normal(mixture.means(), torch.full((4,), 0.25)))
    weights = torch.cat([w.parameter.flatten() for w in sparsifier.weights])
    precision = math.log(16)
    hyper = (1 - 5e3) * precision + 2 * 16 + 3 * ((1 - 250) * precision + 0.1 * 16)
    expected = 0.5 * (hyper - density.log_prob(weights).sum())
    torch.testing.assert_close(sparsifier.penalty(), expected, rtol=1e-5, atol=0)


def test_training_computes_with_the_weights_and_evaluation_with_the_means():
    model = two_layers()
    x = torch.randn(3, 5)
    expected = model(x)
    sparsifier = ow.sparsify(model, TECHNIQUE)
    assert torch.equal(model(x), expected)
    mixture = model[0].reparam.weight.mixture
    with torch.no_grad():
        mixture.scaled_precisions.fill_(math.log(1e4) / 6)  # narrow: every weight has one component
    plain = sparsifier.finalize()
    values = torch.cat([plain[0].weight.flatten(), plain[2].weight.flatten()]).unique()
    assert set(values.tolist()) <= {0.0, -0.6000000238418579, 0.6000000238418579}
    assert (plain[0].weight == 0).any()


def test_adam_moves_means_and_precisions_at_their_own_rates():
    model = two_layers()
    sparsifier = ow.sparsify(model, TECHNIQUE)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    mixture = model[0].reparam.weight.mixture
    before = [part().detach().clone() for part in (mixture.means, mixture.log_precisions)]
    sparsifier.penalty().backward()
    optimizer.step()
    means, precisions = mixture.means() - before[0], mixture.log_precisions() - before[1]
    assert means[0] == 0
    torch.testing.assert_close(means[1:].abs(), torch.full((3,), 1e-4), rtol=1e-2, atol=0)
    torch.testing.assert_close(precisions.abs(), torch.full((4,), 3e-3), rtol=1e-2, atol=0)


@pytest.mark.parametrize("settings", [{"components": 1}, {"zero_proportion": 1.0}], ids=repr)
def test_impossible_mixtures_are_refused(settings):
    with pytest.raises(ValueError, match="must be"):
        ow.SoftWeightSharing(ow.Constant(1.0), **settings)
