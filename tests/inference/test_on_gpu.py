"""Layers in the forms for GPUs: what a CPU can tell of them. The rest is in test_gpu.py beside this file."""

import copy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from openwork.inference.on_gpu import ALTERNATIVES, PackedLinear, PackedOnGPU
from openwork.kernels import semi_structured


def half(layer):
    with torch.no_grad():
        layer.weight *= torch.rand_like(layer.weight) >= 0.5
    return layer.eval()


@pytest.mark.parametrize("one", ALTERNATIVES, ids=lambda one: one.name)
def test_what_does_not_fit_says_why(one):
    assert one.misfit(nn.Conv2d(4, 4, 3), torch.randn(1, 4, 8, 8)) == "no kernel for Conv2d"
    assert one.misfit(nn.Linear(64, 64), torch.randn(1, 64)) == "the kernel computes on a GPU, not on cpu"


def test_a_subclass_that_may_compute_otherwise_is_left_alone():
    class Scaled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    assert PackedOnGPU().misfit(Scaled(8, 8), torch.randn(1, 8)) == "no kernel for Scaled"


@pytest.mark.parametrize("layer", [nn.Linear(24, 40), nn.Linear(24, 40, bias=False), Conv1D(40, 24)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_packed_layer_computes_what_it_was_made_of_and_gives_it_back(layer, dtype):
    layer = half(copy.deepcopy(layer).to(dtype))
    packed = PackedOnGPU().convert(layer)
    for shape in ((24,), (1, 24), (3, 5, 24)):
        x = torch.randn(shape, dtype=dtype)
        assert torch.allclose(packed(x), layer(x), atol=1e-5 if dtype == torch.float32 else 5e-2)
    dense = packed.dense()
    assert type(dense) is type(layer)
    assert not dense.training
    assert all(torch.equal(value, layer.state_dict()[name]) for name, value in dense.state_dict().items())
    assert torch.equal(dense(x), layer(x))


def test_a_packed_layer_can_be_copied_saved_and_moved():
    packed = PackedLinear(half(nn.Linear(24, 40)))
    x = torch.randn(2, 24)
    assert torch.equal(copy.deepcopy(packed)(x), packed(x))
    assert set(packed.state_dict()) == {"offsets", "order", "starts", "gaps", "values", "bias"}
    assert packed.to("meta").values.device.type == "meta"


def test_bytes_are_counted():
    layer = half(nn.Linear(4096, 512, dtype=torch.bfloat16))
    assert 1.4 < layer.weight.nbytes / PackedLinear(layer).nbytes < 1.6


def test_groups_with_more_than_two_of_four_are_counted_along_rows():
    weight = torch.tensor([[1.0, 0, 2, 0, 3, 4, 5, 0], [0, 0, 0, 0, 1, 1, 1, 1]])
    assert semi_structured.groups_with_more(weight) == 2


def test_the_2_4_operator_declares_its_shape():
    with torch._subclasses.FakeTensorMode():
        x, packed = torch.empty(2, 3, 64, dtype=torch.bfloat16), torch.empty(32, 36, dtype=torch.bfloat16)
        y = semi_structured.semi_structured_linear(x, packed, torch.empty(0), None, 48)
    assert y.shape == (2, 3, 48)
    assert y.dtype == torch.bfloat16
