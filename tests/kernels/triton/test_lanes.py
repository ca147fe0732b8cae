"""The Triton kernels for lanes beside plain torch: in Triton's interpreter (TRITON_INTERPRET=1), or on a GPU."""

import importlib.util
import os

import pytest
import torch
import torch.nn.functional as F

from openwork.kernels import lanes
from tests.kernels.lane_cases import matrices

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(not INTERPRETED, reason="TRITON_INTERPRET=1 runs these on a CPU; `make test-triton`"),
]
# In bfloat16 half a unit of the last place is 2 ** -9 of a value; the interpreter does not round but cuts off.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}
FORMS = [*((dtype, (0, 0)) for dtype in TOLERANCES), *((torch.float32, one) for one in ((32, 4), (16, 4), (8, 8)))]


@pytest.fixture(params=["shared memory", "cache"])
def kernels(request, monkeypatch):
    from openwork.kernels.triton import lanes as kernels

    if request.param == "cache":
        monkeypatch.setattr(kernels, "WIDEST", 0)
    return kernels


@pytest.mark.parametrize(("dtype", "layout"), FORMS, ids=str)
@pytest.mark.parametrize("name", matrices())
def test_products_are_those_of_the_dense_weight(kernels, name, dtype, layout):
    weight = matrices(dtype)[name]
    packed = lanes.pack(weight, *layout)
    torch.manual_seed(0)
    for count, bias in ((1, None), (2, torch.randn(len(weight), dtype=dtype)), (3, None)):
        x = torch.randn(count, weight.shape[1], dtype=dtype)
        expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
        y = kernels.product(x, *packed, bias)
        assert y.dtype == dtype
        assert torch.allclose(y.double(), expected, rtol=2 * TOLERANCES[dtype], atol=TOLERANCES[dtype])


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0,), (2, 0)], ids=str)
def test_inputs_of_any_shape_are_taken(kernels, shape):
    weight = matrices()["empty rows"]
    x = torch.randn(*shape, 300)
    y = kernels.product(x, *lanes.pack(weight), None)
    assert torch.allclose(y, F.linear(x, weight), atol=1e-4)


def test_inputs_that_do_not_lie_in_one_piece_are_taken(kernels):
    weight = matrices()["half"]
    x = torch.randn(257, 2).t()
    assert torch.allclose(kernels.product(x, *lanes.pack(weight), None), F.linear(x, weight), atol=1e-4)


@pytest.mark.parametrize(("dtype", "layout"), FORMS, ids=str)
@pytest.mark.parametrize("name", matrices())
def test_unpacking_gives_back_every_weight(name, dtype, layout):
    from openwork.kernels.triton import lanes as kernels

    weight = matrices(dtype)[name]
    assert torch.equal(kernels.unpack(*lanes.pack(weight, *layout), weight.shape[1]), weight)
