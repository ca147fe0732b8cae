"""Noise and gradients that are computed once more: for second derivatives, and by checkpoints."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import openwork as ow
from openwork.core.parameters.noisy import computes_again
from openwork.noise import keyed
from tests.core.noisy_cases import CASES, CONSTANT, made
from tests.helpers import raises

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


@pytest.mark.parametrize(
    ("x", "weight", "output", "expected"),
    [
        ((256, 64, 56, 56), (64, 64, 3, 3), (256, 64, 56, 56), True),  # a short sum
        ((256, 128, 28, 28), (128, 128, 3, 3), (256, 128, 28, 28), False),
        ((256, 512, 7, 7), (2048, 512, 1, 1), (256, 2048, 7, 7), True),  # wide
        ((256, 2048, 7, 7), (512, 2048, 1, 1), (256, 512, 7, 7), False),
        ((1024, 512), (512, 512), (1024, 512), False),
        ((1024, 512), (2048, 512), (1024, 2048), True),  # wide
        ((1024, 512), (33_288, 512), (1024, 33_288), False),  # the last
    ],
)
def test_which_variances_a_gpu_computes_again(x, weight, output, expected):
    tensors = (torch.empty(shape, device="meta") for shape in (output, x, weight))
    assert computes_again(*tensors) == expected


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


TWO = {"variational dropout": ow.VariationalDropout(CONSTANT, log_sigma2=-2.0), "L0": ow.L0(CONSTANT)}


@pytest.mark.parametrize("inside", [True, False], ids=["backward by the key", "backward without it"])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("technique", TWO)
def test_a_checkpoint_draws_the_same_by_a_key(technique, reentrant, inside):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    ow.sparsify(model, TWO[technique])
    x, runs = torch.randn(7, 5), []

    def halves(x):
        for half in (model[:2], model[2:]):
            x = checkpoint(half, x, use_reentrant=reentrant)
        return x

    for run in (model, halves):
        inputs = x.clone().requires_grad_()
        with keyed(torch.tensor(123)):
            y = run(inputs)
            if inside:
                y.square().sum().backward()
        if not inside:
            y.square().sum().backward()
        runs.append([y, inputs.grad, *(parameter.grad for parameter in model.parameters())])
        model.zero_grad()
    for ours, theirs in zip(*runs, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_checkpoint_without_a_key_follows_torchs_generator_again():
    layer = nn.Sequential(nn.Linear(5, 4))
    ow.sparsify(layer, TWO["variational dropout"])
    x, found = torch.randn(3, 5), []
    with keyed(torch.tensor(1)):
        layer(x)
    for run in (layer, lambda x: checkpoint(layer, x, use_reentrant=False)):
        torch.manual_seed(1)
        inputs = x.clone().requires_grad_()
        run(inputs).square().sum().backward()
        found.append(inputs.grad)
    torch.testing.assert_close(*found)


def test_a_checkpoint_of_one_of_several_draws_is_refused():
    layer = nn.Sequential(nn.Linear(5, 5))
    ow.sparsify(layer, TWO["variational dropout"])
    with keyed(torch.tensor(1)):
        y = layer(checkpoint(layer, torch.randn(3, 5, requires_grad=True), use_reentrant=False))
    with raises(RuntimeError, "a checkpoint computes again what has drawn noise 2 times by one key for '0.weight'"):
        y.sum().backward()
