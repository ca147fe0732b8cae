"""Layers converted to our sparse kernels on a CPU."""

import copy
import pickle

import pytest
import torch
from torch import nn

from openwork.inference.on_cpu import ALTERNATIVES, SparseOnCPU
from openwork.kernels import compiled
from tests.kernels.test_sparse import random_sparse

pytestmark = pytest.mark.skipif(compiled.load() is not None, reason=str(compiled.load()))


def sparse_layer(layer, sparsity=0.7):
    with torch.no_grad():
        layer.weight.copy_(random_sparse(*layer.weight.shape, sparsity=sparsity))
    return layer.eval()


def conv1d():
    return pytest.importorskip("transformers.pytorch_utils").Conv1D(7, 12)  # 12 to 7


LINEAR = {"linear": lambda: nn.Linear(12, 7), "no bias": lambda: nn.Linear(12, 7, bias=False), "Conv1D": conv1d}


@pytest.mark.parametrize("kind", LINEAR)
def test_a_converted_linear_layer_computes_the_same_and_comes_back_bit_for_bit(kind):
    layer = sparse_layer(LINEAR[kind]())
    before = copy.deepcopy(layer.state_dict())
    for alternative in ALTERNATIVES:
        x = torch.randn(3, 5, 12)
        if alternative.misfit(layer, x) is not None:
            continue
        form = alternative.convert(layer)
        with torch.inference_mode():
            torch.testing.assert_close(form(x), layer(x))
        dense = form.dense()
        assert type(dense) is type(layer)
        assert dense.state_dict().keys() == before.keys()
        for name, tensor in dense.state_dict().items():
            assert torch.equal(tensor, before[name])
            assert torch.equal(tensor, layer.state_dict()[name])


def test_a_converted_layer_holds_no_dense_weight():
    form = SparseOnCPU().convert(sparse_layer(nn.Linear(100, 50), 0.9))
    nonzeros = len(form.values)
    assert form.nbytes == nonzeros * (4 + 2) + 51 * 8 + 50 * 4
    assert not list(form.parameters())


def test_converted_layers_can_be_copied_pickled_and_loaded():
    form = SparseOnCPU().convert(sparse_layer(nn.Linear(12, 7)))
    x = torch.randn(2, 12)
    for again in (copy.deepcopy(form), pickle.loads(pickle.dumps(form))):
        assert torch.equal(again(x), form(x))
    other = SparseOnCPU().convert(sparse_layer(nn.Linear(12, 7)))
    other.load_state_dict(form.state_dict())
    assert torch.equal(other(x), form(x))


def test_misfits_are_named():
    alternative = SparseOnCPU()
    linear, x = nn.Linear(4, 4), torch.randn(2, 4)

    class Scaled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    assert alternative.misfit(linear, x) is None
    assert alternative.misfit(Scaled(4, 4), x) == "no kernel for Scaled"
    assert alternative.misfit(nn.LayerNorm(4), x) == "no kernel for LayerNorm"
    assert alternative.misfit(linear, x.double()) == "the kernel computes in float32, not in torch.float64"
    assert alternative.misfit(nn.Linear(4, 4, dtype=torch.bfloat16), x) is not None
    assert alternative.misfit(linear, x.to("meta")) == "the kernel computes on a CPU, not on meta"


@pytest.mark.slow
def test_a_compiled_model_of_converted_layers_is_one_graph_for_every_batch():
    layers = [sparse_layer(nn.Linear(12, 7)), nn.ReLU(), sparse_layer(nn.Linear(7, 3))]
    dense = nn.Sequential(*layers)
    model = nn.Sequential(SparseOnCPU().convert(layers[0]), nn.ReLU(), SparseOnCPU().convert(layers[2]))
    compiled_model = torch.compile(model, fullgraph=True, dynamic=True)
    with torch.inference_mode():
        for batch in (4, 1, 5, 40):
            x = torch.randn(batch, 12)
            torch.testing.assert_close(compiled_model(x), dense(x))
