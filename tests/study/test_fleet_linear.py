"""Linear layers of stacked models."""

import pytest
import torch
from torch.func import vmap
from torch.nn import functional as F

from openwork.study.fleet.linear import StraightLinears


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, requires_grad=True)


def straight(*args):
    with StraightLinears():
        return F.linear(*args)


@pytest.mark.parametrize(
    ("x", "weight", "bias", "dims"),
    [
        ((3, 5, 4), (3, 2, 4), (3, 2), (0, 0, 0)),
        ((5, 4), (3, 2, 4), (3, 2), (None, 0, 0)),
        ((3, 5, 4), (2, 4), (3, 2), (0, None, 0)),
        ((3, 5, 4), (3, 2, 4), (2,), (0, 0, None)),
        ((5, 3, 4), (2, 4, 3), (2, 3), (1, 2, 1)),
        ((3, 4), (3, 2, 4), (3, 2), (0, 0, 0)),
        ((3, 7, 5, 4), (3, 2, 4), (3, 2), (0, 0, 0)),
        ((3, 0, 4), (3, 2, 4), (3, 2), (0, 0, 0)),
    ],
    ids=["all", "one batch", "one weight", "one bias", "other axes", "no batch", "sequences", "empty"],
)
def test_stacked_linears_and_their_gradients_are_those_of_torch(x, weight, bias, dims):
    torch.manual_seed(0)
    arguments = [drawn(*x), drawn(*weight), drawn(*bias)]
    wanted, found = (vmap(f, in_dims=dims)(*arguments) for f in (F.linear, straight))
    torch.testing.assert_close(found, wanted)
    seed = torch.randn_like(wanted)
    gradients = [torch.autograd.grad(each, arguments, seed) for each in (found, wanted)]
    torch.testing.assert_close(*gradients)


def test_a_stacked_linear_needs_no_bias():
    x, weight = drawn(3, 5, 4), drawn(3, 2, 4)
    torch.testing.assert_close(vmap(straight)(x, weight), x @ weight.mT)


def test_the_gradient_of_a_stacked_weight_lies_in_memory_as_the_weight_does():
    x, weight = drawn(3, 5, 4), drawn(3, 2, 4)
    (gradient,) = torch.autograd.grad(vmap(straight)(x, weight).sum(), [weight])
    assert gradient.stride() == weight.stride()


def test_a_model_that_is_not_finite_leaves_its_neighbours_alone():
    x, weight = torch.randn(3, 5, 4), torch.randn(3, 2, 4)
    wanted = vmap(straight)(x, weight)
    x[1], weight[1] = float("nan"), float("inf")
    found = vmap(straight)(x, weight)
    assert torch.equal(found[[0, 2]], wanted[[0, 2]])


def test_what_is_no_model_of_a_stack_is_torchs_own():
    x, weight = torch.randn(5, 4), torch.randn(2, 4)
    assert torch.equal(straight(x, weight), F.linear(x, weight))


def test_gradients_within_a_stacked_loss_are_torchs_own():
    x, weight = torch.randn(3, 5, 4), torch.randn(3, 2, 4)

    def slope(function, x, weight):
        return torch.func.grad(lambda w: function(x, w).square().sum())(weight)

    wanted, found = (vmap(lambda x, w, f=f: slope(f, x, w))(x, weight) for f in (F.linear, straight))
    torch.testing.assert_close(found, wanted)
