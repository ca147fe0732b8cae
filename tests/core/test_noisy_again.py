"""Noise and gradients that are computed once more: for second derivatives, and by checkpoints."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import openwork as ow
from tests.core.noisy_cases import CASES, CONSTANT, made

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


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("name", CASES)
def test_noise_is_the_same_with_gradients_and_without(name, memory, off):
    layer, _, x = made(name, memory)
    torch.manual_seed(1)
    expected = layer(x)
    torch.manual_seed(1)
    with off():
        torch.testing.assert_close(layer(x), expected.detach())


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("memory", MEMORY)
def test_a_checkpoint_computes_the_same_outputs_and_gradients(memory, reentrant):
    model = nn.Sequential(nn.Linear(5, 4), nn.Conv1d(3, 2, 2), nn.Linear(3, 2))
    ow.sparsify(model, ow.VariationalDropout(CONSTANT, memory=memory, log_sigma2=-2.0))
    x, runs = torch.randn(6, 3, 5), []
    for run in (model, lambda x: checkpoint(model, x, use_reentrant=reentrant)):
        torch.manual_seed(1)
        inputs = x.clone().requires_grad_()
        y = run(inputs)
        y.square().sum().backward()
        runs.append([y, inputs.grad, *(parameter.grad for parameter in model.parameters())])
        model.zero_grad()
    for ours, theirs in zip(*runs, strict=True):
        torch.testing.assert_close(ours, theirs)
