"""A weight has one sparsifier at most, and a sparsifier keeps nothing alive that nobody uses."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.core.ownership import holder
from tests.helpers import conv_net, raises

PRUNE = ow.GradualMagnitude(ow.OneShot(0.5))
BOTH = pytest.mark.parametrize("technique", [PRUNE, ow.L0(ow.Constant(1e-3))], ids=lambda t: type(t).__name__)


@BOTH
def test_a_weight_is_held_also_once_a_wrapper_has_replaced_the_parameter(technique):
    layer = nn.Linear(4, 2)
    sparsifier = ow.sparsify(layer, technique)
    layer._parameters["weight"] = nn.Parameter(layer._parameters["weight"].detach().clone())  # as fully_shard does
    for other in (PRUNE, ow.L0(ow.Constant(1e-3))):
        with raises(ValueError, f"weight is being sparsified by {technique} already", "call finalize()"):
            ow.sparsify(layer, other)
    sparsifier.finalize()
    assert holder(layer, "weight") is None


def test_a_copy_of_a_masked_model_is_held_by_nobody():
    layer = nn.Linear(4, 2)
    sparsifier = ow.sparsify(layer, PRUNE)
    twin = copy.deepcopy(layer)
    assert holder(layer, "weight") == str(sparsifier.technique)
    assert holder(twin, "weight") is None
    ow.sparsify(twin, PRUNE).finalize()


@BOTH
def test_a_dropped_sparsifier_lets_the_model_go(technique):
    model = conv_net()
    sparsifier = ow.sparsify(model, technique)
    model(torch.ones(1, 2, 6, 6)).sum().backward()
    watched = [weakref.ref(thing) for thing in (model, model[0], sparsifier, sparsifier._mechanism)]
    masked = [weakref.ref(weight) for weight in sparsifier._mechanism.weights]
    del model, sparsifier
    gc.collect()
    assert [thing() for thing in watched + masked] == [None] * (len(watched) + len(masked))


@BOTH
def test_a_finalized_sparsifier_lets_its_state_go(technique):
    model = conv_net()
    sparsifier = ow.sparsify(model, technique)
    mechanism = sparsifier._mechanism
    state = mechanism.weights if technique == PRUNE else mechanism.distributions
    watched = [weakref.ref(thing) for thing in state]
    del state
    sparsifier.finalize()
    gc.collect()
    assert [thing() for thing in watched] == [None] * 3
    assert str(sparsifier).startswith("Sparsifier(")


def two_parameters(shared):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    model[2].weight = nn.Parameter(shared(model[0].weight))
    return model


@BOTH
@pytest.mark.parametrize("shared", [lambda w: w, lambda w: w.t(), lambda w: w[2:, 2:]], ids=["all", "turned", "a part"])
def test_two_parameters_in_the_same_memory_are_refused(technique, shared):
    model = two_parameters(shared)
    before = model[0].weight.detach().clone()
    with raises(ValueError, "0.weight and 2.weight are two parameters in the same memory", "make them one parameter"):
        ow.sparsify(model, technique)
    assert torch.equal(model[0].weight, before)
    ow.sparsify(model, technique, select="0")  # the other one is nobody's


def test_two_parameters_in_the_same_memory_are_refused_where_a_trained_model_is_pruned():
    with raises(ValueError, "0.weight and 2.weight are two parameters in the same memory"):
        ow.prune(two_parameters(lambda w: w), ow.Wanda(ow.OneShot(0.5)), batches=[torch.randn(4, 8)])


def test_parameters_side_by_side_in_one_tensor_are_two():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    for halves in (torch.randn(16, 8).chunk(2), torch.randn(8, 16).chunk(2, 1), (torch.randn(8, 16)[:, 1::2],)):
        for layer, half in zip((model[0], model[2]), halves, strict=False):
            layer.weight = nn.Parameter(half)
        assert ow.prune(model, PRUNE).sparsity == 0.5
