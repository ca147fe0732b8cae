"""Random weights under torch.export in training, and with many gradients in one backward pass."""

import pytest
import torch
from torch import nn

import openwork as ow

COEFFICIENT = ow.Constant(1e-3)
TECHNIQUES = {
    "fast": ow.VariationalDropout(COEFFICIENT, log_sigma2=-2.0),
    "small": ow.VariationalDropout(COEFFICIENT, memory="small", log_sigma2=-2.0),
    "train_clip": ow.VariationalDropout(COEFFICIENT, train_clip=True),
    "L0": ow.L0(COEFFICIENT, weight_decay=0.1),
    "group L0": ow.GroupL0(COEFFICIENT),
    "sharing": ow.SoftWeightSharing(COEFFICIENT),
}
LAYERS = {
    "matrix": (lambda: nn.Linear(3, 2), (2, 3)),
    "sequence": (lambda: nn.Linear(3, 2), (2, 4, 3)),
    "convolution": (lambda: nn.Conv2d(3, 2, 2), (2, 3, 4, 4)),
}


def made(technique, layer):
    build, shape = LAYERS[layer]
    model = nn.Sequential(build())
    return model, ow.sparsify(model, TECHNIQUES[technique]), torch.randn(shape)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_an_exported_training_step_has_gradients(technique, layer, strict):
    model, _, x = made(technique, layer)
    exported = torch.export.export(model, (x,), strict=strict).module()
    exported(x).square().sum().backward()
    model(x).square().sum().backward()
    found = {name: parameter.grad for name, parameter in exported.named_parameters() if parameter.grad is not None}
    assert found.keys() == {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert len(found) > 1
    assert all(gradient.isfinite().all() for gradient in found.values())


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_many_gradients_in_one_backward_pass_are_those_of_one_after_the_other(technique, layer, again):
    model, sparsifier, x = made(technique, layer)
    inputs = [x.requires_grad_(), *model.parameters()]
    y = model(x)
    directions = torch.randn(3, *y.shape)
    for value, many in ((y, directions), (sparsifier.penalty(), torch.randn(3))):
        found = torch.autograd.grad(
            value, inputs, many, is_grads_batched=True, retain_graph=True, create_graph=again, allow_unused=True
        )
        for number, direction in enumerate(many):
            one = torch.autograd.grad(value, inputs, direction, retain_graph=True, allow_unused=True)
            for ours, theirs in zip(found, one, strict=True):
                assert (ours is None) == (theirs is None)
                if ours is not None:
                    torch.testing.assert_close(ours[number], theirs)
