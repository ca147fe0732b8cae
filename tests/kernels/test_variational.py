"""Variational dropout's variances, where forward and backward pass are not compiled together."""

import math
from types import SimpleNamespace

import pytest
import torch

from openwork.kernels.variational import Variances

LOW, HIGH = math.exp(-8.0), math.exp(8.0)


def _backward(log_sigma2, rounding, *, again):
    """The gradients of means of 1, where the forward pass had an exp of another rounding."""
    theta = torch.ones_like(log_sigma2)
    sigma2 = (torch.exp(log_sigma2) * (1 + rounding)).clamp(LOW, HIGH)
    with torch.set_grad_enabled(again):
        return Variances.backward(SimpleNamespace(saved_tensors=(theta, log_sigma2, sigma2)), torch.ones_like(sigma2))[
            :2
        ]


@pytest.mark.parametrize("again", [False, True], ids=["once", "again"])
@pytest.mark.parametrize("rounding", [0.0, 2**-22, -(2**-22)])
def test_another_rounding_of_exp_clips_nothing(rounding, again):
    log_sigma2 = torch.tensor([-7.9, -1.0, 0.0, 7.9])
    of_theta, of_log_sigma2 = _backward(log_sigma2, rounding, again=again)
    assert of_theta.tolist() == [0.0] * 4
    torch.testing.assert_close(of_log_sigma2, torch.exp(log_sigma2))


@pytest.mark.parametrize("again", [False, True], ids=["once", "again"])
@pytest.mark.parametrize("rounding", [0.0, 2**-22, -(2**-22)])
def test_what_is_clipped_stays_so_with_another_rounding_of_exp(rounding, again):
    of_theta, of_log_sigma2 = _backward(torch.tensor([-100.0, -8.1, 8.1, 88.0]), rounding, again=again)
    assert of_log_sigma2.tolist() == [0.0] * 4
    torch.testing.assert_close(of_theta, 2 * torch.tensor([LOW, LOW, HIGH, HIGH]))


def test_float64_knows_the_limits_as_exactly():
    of_theta, of_log_sigma2 = _backward(torch.tensor([7.9999, 8.0001], dtype=torch.float64), 0.0, again=False)
    assert (of_theta != 0).tolist() == [False, True]
    assert (of_log_sigma2 != 0).tolist() == [True, False]
