"""The error on the straight line between two trained models."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from openwork.study.runs.connectivity import Path, path_between
from tests.helpers import raises

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] * X[:, 1] > 0).long()


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))


def trained(model, order, steps=60):
    """A copy of the model after so many steps, in the order of a seed."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    generator = torch.Generator().manual_seed(order)
    for _ in range(steps):
        some = torch.randperm(64, generator=generator)[:16]
        F.cross_entropy(model(X[some]), Y[some]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@torch.no_grad()
def error(model):
    model.eval()
    return float((model(X).argmax(1) != Y).float().mean())


def test_lmc_zero_identical_seeds_have_no_barrier():
    start = net()
    one, two = trained(start, order=1), trained(start, order=1)
    found = path_between(one, two, error, batches=[X])
    assert len(found.places) == 30
    assert found.barrier == 0.0
    assert len(set(found.errors)) == 1


def test_lmc_zero_of_a_training_that_is_split_at_its_end():
    end = trained(net(), order=1)
    assert path_between(end, trained(end, order=2, steps=0), error, batches=[X]).barrier == 0.0


def test_two_trainings_from_other_weights_have_a_barrier_and_the_ends_are_the_models():
    one, two = trained(net(0), order=1), trained(net(1), order=2)
    before = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    found = path_between(one, two, error, batches=[X], points=11)
    assert found.places[0] == 0
    assert found.places[-1] == 1
    assert found.barrier > 0.05
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.state_dict().items())
    plain = [nn.Linear(4, 2), nn.Linear(4, 2)]
    ends = path_between(*plain, error, points=2)
    assert ends.errors == tuple(error(model) for model in plain)


def test_the_barrier_is_the_highest_error_less_the_mean_of_the_ends():
    assert Path((0.0, 0.5, 1.0), (0.1, 0.6, 0.3)).barrier == pytest.approx(0.4)
    assert Path((0.0, 0.5, 1.0), (0.2, 0.1, 0.2)).barrier == 0.0


def test_statistics_of_batch_norms_are_those_of_the_model_in_between():
    one, two = net(0), net(1)
    seen = []

    def look(model):
        seen.append((model[1].running_mean.clone(), model[0](X).mean(0).detach()))
        return 0.0

    path_between(one, two, look, batches=[X], points=3)
    for mean, expected in seen:
        torch.testing.assert_close(mean, expected)


def test_models_that_cannot_be_compared_are_refused():
    with raises(
        ValueError, "0.weight is ((2, 4), torch.float32) in the first model and ((3, 4), torch.float32) in the"
    ):
        path_between(nn.Sequential(nn.Linear(4, 2)), nn.Sequential(nn.Linear(4, 3)), error)
    with raises(ValueError, "bias is", "in the first model and absent in the second; compare like ones"):
        path_between(nn.Linear(4, 2), nn.Linear(4, 2, bias=False), error)
    with raises(ValueError, "the models have batch norms, whose statistics", "pass batches="):
        path_between(net(), net(), error)
    with raises(ValueError, "points must be at least 2, the ends, got 1; the paper has 30"):
        path_between(nn.Linear(4, 2), nn.Linear(4, 2), error, points=1)
