"""What cannot be followed or has nothing to make sparse is refused in one sentence."""

import copy
import pickle

import pytest
import torch
from torch import nn

import openwork as ow
from tests.helpers import raises


@pytest.mark.parametrize("technique", [ow.GradualMagnitude(ow.OneShot(0.5)), ow.L0(ow.Constant(0.1))], ids=repr)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, pickle.dumps])
def test_a_sparsifier_is_not_copied(technique, duplicate):
    model = nn.Linear(4, 4)
    sparsifier = ow.sparsify(model, technique)
    sparsifier.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    with raises(TypeError, "a sparsifier cannot be copied or pickled", "load state_dict(), or take finalized_copy()"):
        duplicate(sparsifier)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_weights_without_elements():
    with raises(ValueError, "weight: it has no weights"):
        ow.sparsify(nn.Linear(0, 4), ow.GradualMagnitude(ow.OneShot(0.5)))
    both = nn.Sequential(nn.Linear(0, 4), nn.Linear(4, 4))
    sparsifier = ow.sparsify(both, ow.GradualMagnitude(ow.OneShot(0.5)))
    assert sparsifier.layer_sparsity() == {"1.weight": 0.5}
    assert sparsifier.skipped == {"0.weight": "it has no weights"}
