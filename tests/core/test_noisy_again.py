"""Noise and gradients that are computed once more: for second derivatives, and by checkpoints."""

import pytest
import torch

from tests.core.noisy_cases import CASES, made

MEMORY = ["fast", "small"]


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("name", CASES)
def test_gradients_that_can_be_differentiated_again_are_the_same(name, memory):
    layer, _, x = made(name, memory)
    inputs = [x.requires_grad_(), *layer.parameters()] if x.is_floating_point() else list(layer.parameters())
    loss = layer(x).square().sum()
    expected = torch.autograd.grad(loss, inputs, retain_graph=True)
    found = torch.autograd.grad(loss, inputs, create_graph=True)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
