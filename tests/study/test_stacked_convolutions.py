"""Convolutions of many models as products, and their twin, torch's."""

import pytest
import torch
from torch.func import vmap
from torch.nn import functional as F

from openwork.study.fleet.convolutions import Unfolded
from openwork.study.fleet.linear import StraightLinears


@pytest.mark.parametrize(
    "settings", [{}, {"stride": 2}, {"padding": 1}, {"stride": (1, 2), "padding": (2, 0)}, {"dilation": 2}], ids=str
)
@pytest.mark.parametrize("biased", [True, False])
def test_products_with_patches_are_the_convolution(settings, biased):
    torch.manual_seed(0)
    x = torch.randn(3, 2, 4, 7, 9, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 5, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, 5, dtype=torch.float64, requires_grad=True) if biased else None
    inputs = [each for each in (x, weight, bias) if each is not None]

    def convolved(*tensors):
        return F.conv2d(*tensors, *([] if biased else [None]), **settings)

    expected = torch.stack([convolved(*rows) for rows in zip(*inputs, strict=True)])
    with Unfolded():
        found = vmap(convolved)(*inputs)
    torch.testing.assert_close(found, expected)
    along = torch.randn_like(expected)
    gradients = (torch.autograd.grad((y * along).sum(), inputs) for y in (found, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_gradient_of_a_stacked_filter_lies_in_memory_as_the_filter_does():
    x = torch.randn(3, 2, 4, 7, 9, dtype=torch.float64)
    weight = torch.randn(3, 5, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    with StraightLinears(), Unfolded():
        found = vmap(F.conv2d)(x, weight)
    (gradient,) = torch.autograd.grad(found.square().sum(), [weight])
    expected = torch.autograd.grad(vmap(F.conv2d)(x, weight).square().sum(), [weight])
    assert gradient.stride() == weight.stride()
    torch.testing.assert_close(gradient, *expected)


def test_convolutions_in_groups_and_with_padding_by_name_stay_torchs():
    x, weight = torch.randn(1, 4, 6, 6), torch.randn(4, 2, 3, 3)
    with Unfolded():
        assert torch.equal(F.conv2d(x, weight, groups=2), torch.ops.aten.conv2d(x, weight, groups=2))
        assert F.conv2d(x, torch.randn(4, 4, 3, 3), padding="same").shape == x.shape
