"""Techniques that prune once, on a device without float64, as Apple's: what needs it goes to the CPU."""

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

import openwork as ow
from openwork.core import precision
from tests.techniques.one_shot import HALF


class OnTheCPU(Tensor):
    """What has been moved there, and what was computed with it."""


class Device(TorchFunctionMode):
    """Plays one that has no float64."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func is Tensor.cpu:
            return found.as_subclass(OnTheCPU)
        if func is Tensor.to:
            return found.as_subclass(Tensor)
        there = any(isinstance(each, OnTheCPU) for each in tree_leaves((args, kwargs)))
        for each in tree_leaves(found):
            if isinstance(each, Tensor) and each.dtype == torch.float64 and not there:
                raise TypeError(f"{func} makes float64")
        return found


TECHNIQUES = [
    ow.DSnoT(HALF),
    ow.Wanda(HALF, allocation=ow.OWL()),
    ow.SparseGPT(HALF),
    ow.ADMM(HALF),
    ow.ALPS(HALF),
    ow.RIA(HALF, pattern=ow.Block(2, 4)),
]


def pruned(technique):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    ow.prune(model, technique, batches=[torch.randn(4, 8) + 100])  # whose X Xᵀ float32 cannot factor
    return [layer.weight.detach() for layer in model]


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda technique: type(technique).__name__)
def test_what_needs_float64_goes_to_the_cpu(technique, monkeypatch):
    expected = pruned(technique)
    with pytest.raises(TypeError, match="makes float64"), Device():
        pruned(technique)
    monkeypatch.setattr(precision, "_WITHOUT_FLOAT64", ("cpu",))
    with Device():
        found = pruned(technique)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
