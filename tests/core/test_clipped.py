"""Clipping whose gradient is computed in one pass."""

import torch
from torch.func import grad, vmap

from openwork.core.parameters.clipped import clipped

X = torch.tensor([-3.0, -0.5, 0.0, 0.5, 3.0])


def test_values_are_clipped_and_not_a_number_stays_so():
    assert clipped(X, -1, 1).tolist() == [-1, -0.5, 0, 0.5, 1]
    assert clipped(torch.tensor([float("nan"), float("inf"), -float("inf")]), -1, 1)[1:].tolist() == [1, -1]
    assert clipped(torch.tensor(float("nan")), -1, 1).isnan()


def test_gradients_pass_between_the_limits_alone():
    assert grad(lambda x: clipped(x, -1, 1).sum())(X).tolist() == [0, 1, 1, 1, 0]


def test_stacked_models_have_limits_of_their_own():
    found = vmap(lambda high: clipped(X, -high, high))(torch.tensor([1.0, 2.0]))
    assert found.tolist() == [X.clamp(-1, 1).tolist(), X.clamp(-2, 2).tolist()]
