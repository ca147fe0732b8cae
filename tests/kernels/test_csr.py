"""The product by CSR, beside the dense one."""

import pytest
import torch
from torch import nn

from openwork.inference.csr import CSR, CSRLinear
from openwork.kernels import csr


def sparse_layer(outputs, inputs, dtype=torch.float32, *, bias=True):
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs, bias=bias, dtype=dtype)
    with torch.no_grad():
        layer.weight.mul_(torch.rand_like(layer.weight) > 0.8)
    return layer.eval()


@pytest.mark.parametrize("shape", [(7,), (1, 7), (3, 7), (2, 3, 7), (0, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_are_dense_ones_for_any_leading_axes(shape, bias):
    layer = sparse_layer(5, 7, torch.float64, bias=bias)
    x = torch.randn(shape, dtype=torch.float64)
    assert torch.allclose(CSRLinear(layer)(x), layer(x), atol=1e-12)


def test_an_input_that_does_not_lie_in_order_is_read_right():
    layer = sparse_layer(5, 7)
    x = torch.randn(7, 3).t()
    assert torch.allclose(CSRLinear(layer)(x), layer(x), atol=1e-6)


def test_a_weight_of_zeros_gives_the_bias():
    layer = sparse_layer(3, 4)
    nn.init.zeros_(layer.weight)
    assert torch.equal(CSRLinear(layer)(torch.randn(2, 4)), layer.bias.expand(2, 3))


def test_pack_and_unpack_are_inverse():
    weight = torch.tensor([[0.0, 1.5, 0.0], [0.0, 0.0, 0.0], [-2.0, 0.0, float("nan")]])
    rows, columns, values = csr.pack(weight)
    assert rows.tolist() == [0, 1, 1, 3]
    assert columns.tolist() == [1, 0, 2]
    assert rows.dtype == columns.dtype == torch.int32
    assert torch.equal(csr.unpack(rows, columns, values, 3).view(torch.int32), weight.view(torch.int32))


@pytest.mark.slow
def test_it_compiles_as_one_graph():
    layer = CSRLinear(sparse_layer(5, 7))
    compiled = torch.compile(layer, fullgraph=True)
    with torch.inference_mode():
        for batch in (1, 4, 9):
            x = torch.randn(batch, 7)
            assert torch.allclose(compiled(x), layer(x), atol=1e-6)


def test_the_fake_kernel_says_the_shape():
    packed = csr.pack(sparse_layer(5, 7).weight.detach())
    checks = ("test_schema", "test_faketensor")  # the others want gradients
    torch.library.opcheck(
        torch.ops.openwork.csr_linear.default, (torch.randn(3, 7), *packed, None, 7), test_utils=checks
    )


@pytest.mark.parametrize(
    ("layer", "x", "reason"),
    [
        (nn.Conv2d(1, 1, 3), torch.randn(1, 1, 8, 8), "no kernel for Conv2d"),
        (nn.Linear(4, 4).half(), torch.randn(2, 4).half(), "MKL computes in float32 and float64"),
        (nn.Linear(4, 4), torch.randn(2, 4).double(), "MKL computes in float32 and float64"),
    ],
)
def test_it_says_what_it_cannot_compute(layer, x, reason):
    assert CSR().misfit(layer, x).startswith(reason)
