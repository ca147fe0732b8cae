"""The gradient of converted layers: there is none, and a backward pass says so instead of leaving it out."""

import pytest
import torch
from torch import nn

from openwork.inference.csr import CSR
from openwork.inference.on_cpu import SparseConvolutionOnCPU, SparseOnCPU
from openwork.inference.on_gpu import PackedOnGPU
from tests.kernels.test_sparse import needs_compiler

LAYERS = {
    "product": (SparseOnCPU(), nn.Linear(8, 8), (3, 8)),
    "convolution": (SparseConvolutionOnCPU(), nn.Conv2d(4, 4, 3, padding=1), (2, 4, 5, 5)),
    "one dimension": (SparseConvolutionOnCPU(), nn.Conv1d(4, 4, 3, padding=1), (2, 4, 5)),
    "MKL": (CSR(), nn.Linear(8, 8), (3, 8)),
    "packed": (PackedOnGPU(), nn.Linear(8, 8), (3, 8)),
}


@pytest.fixture(params=LAYERS, ids=str)
def converted(request):
    """A converted layer, its dense twin, and an input."""
    alternative, layer, shape = LAYERS[request.param]
    return alternative.convert(layer.eval()), layer, torch.randn(shape)


class Residual(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.layer = layer

    def forward(self, x):
        x = self.scale * x
        return (x + self.layer(x).mul_(0.5)).tanh()  # in place, as many models change what a layer returns


@needs_compiler
def test_a_gradient_that_a_converted_layer_would_change_is_refused(converted):
    form, dense, x = converted
    x.requires_grad_()
    y = Residual(form)(x)
    torch.testing.assert_close(y, Residual(dense)(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match=r"computes no gradient; .* or take dense_copy\(\)"):
        y.square().sum().backward()
    assert x.grad is None


@needs_compiler
def test_gradients_that_do_not_pass_a_converted_layer_are_computed(converted):
    form, _, x = converted
    head = nn.Linear(x.shape[-1], 2)
    head(form(x)).sum().backward()
    assert head.weight.grad is not None
    with torch.no_grad():
        assert not Residual(form)(x).requires_grad


@needs_compiler
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_with_trainable_layers_runs_and_refuses_its_gradient(converted, backend):
    form, dense, x = converted
    torch.compiler.reset()  # the other cases would count as recompilations
    compiled = torch.compile(Residual(form), backend=backend, fullgraph=True)
    y = compiled(x)
    torch.testing.assert_close(y, Residual(dense)(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match="computes no gradient"):
        y.sum().backward()


@needs_compiler
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own
def test_torch_func_is_refused_a_gradient_and_given_the_rest(converted):
    form, dense, x = converted
    model = Residual(form)
    with pytest.raises(RuntimeError, match="computes no gradient"):
        torch.func.grad(lambda x: model(x).sum())(x)
    with pytest.raises(RuntimeError, match="computes no gradient"):
        torch.func.jvp(model, (x,), (x,))
    found = torch.func.vmap(model)(x.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(found, Residual(dense)(x), rtol=1e-4, atol=1e-5)


@needs_compiler
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_model_with_trainable_layers_is_traced_and_exported(converted):
    form, dense, x = converted
    expected = Residual(dense)(x)
    for traced in (torch.jit.trace(Residual(form), x), torch.export.export(Residual(form), (x,)).module()):
        torch.testing.assert_close(traced(x), expected, rtol=1e-4, atol=1e-5)
