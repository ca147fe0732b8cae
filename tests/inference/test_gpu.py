"""Layers in the forms for GPUs, on a GPU; `make test-gpu`."""

import copy
import warnings

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.inference.on_gpu import PackedLinear, PackedOnGPU, SemiStructuredOnGPU
from openwork.kernels import lanes
from tests.kernels.lane_cases import matrices

pytestmark = pytest.mark.gpu
ERRORS = {
    torch.float32: 1e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 1e-2,
}  # norms: half a unit of the last place, doubled
BATCHES = (1, 2, 3, 8, 16, 17, 100)


def linear(inputs, outputs, sparsity, dtype=torch.bfloat16, bias=True):
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs, bias=bias).cuda().to(dtype).eval()
    with torch.no_grad():
        layer.weight *= torch.rand_like(layer.weight) >= sparsity
    return layer


def two_of_four(layer):
    with torch.no_grad():
        groups = layer.weight.view(-1, 4)
        groups.scatter_(1, groups.abs().topk(2, dim=1, largest=False).indices, 0)
    return layer


@torch.no_grad()
def error(y, weight, x, bias):
    expected = nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    return float((y.double() - expected).norm() / expected.norm().clamp(min=1e-30))


@pytest.mark.parametrize("dtype", ERRORS, ids=str)
@pytest.mark.parametrize("layout", [(0, 0), (32, 4), (16, 4), (32, 8), (16, 8), (8, 8)], ids=str)
@pytest.mark.parametrize("shape", [(4096, 4096), (1000, 2049), (300, 11008), (64, 20_000), (9000, 130)], ids=str)
def test_products_and_unpacking_are_right_at_every_sparsity_and_batch(shape, layout, dtype):
    torch.manual_seed(0)
    if shape[1] > lanes.WIDEST:
        layout = (layout[0], 8)
    for sparsity in (0.0, 0.5, 0.9, 0.99):
        weight = torch.randn(shape, device="cuda", dtype=dtype)
        weight *= torch.rand(shape, device="cuda") >= sparsity
        packed = lanes.pack(weight, *layout)
        assert torch.equal(lanes.unpack(*packed, shape[1]), weight)
        assert torch.equal(lanes.unpack_plain(*packed, shape[1]), weight)
        for batch in BATCHES:
            x = torch.randn(batch, shape[1], device="cuda", dtype=dtype)
            y = lanes.lanes_linear(x, *packed, None)
            assert error(y, weight, x, None) < ERRORS[dtype], (sparsity, batch)


@pytest.mark.parametrize("name", matrices())
def test_awkward_matrices_are_right(name):
    weight = matrices()[name].cuda()
    x, bias = torch.randn(3, weight.shape[1], device="cuda"), torch.randn(len(weight), device="cuda")
    expected = nn.functional.linear(x.double(), weight.double(), bias.double())
    y = lanes.lanes_linear(x, *lanes.pack(weight), bias)
    assert torch.allclose(y.double(), expected, atol=1e-4)


def test_products_repeat_bit_for_bit():
    layer = PackedLinear(linear(4096, 4096, 0.5))
    x = torch.randn(2, 4096, device="cuda", dtype=torch.bfloat16)
    first = layer(x)
    assert all(torch.equal(layer(x), first) for _ in range(20))


@pytest.mark.parametrize("one", [PackedOnGPU(), SemiStructuredOnGPU()], ids=lambda one: one.name)
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_right_in_inference_mode_compiled_and_in_a_graph_and_comes_back(one, bias):
    layer = two_of_four(linear(512, 256, 0.0, bias=bias))
    x = torch.randn(1, 512, device="cuda", dtype=torch.bfloat16)
    assert one.misfit(layer, x) is None
    form = one.convert(layer)
    weights = layer.weight, layer.bias
    with torch.inference_mode():
        for shape in ((512,), (1, 512), (2, 3, 512), (16, 512), (17, 512), (300, 512)):
            x = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
            assert error(form(x), weights[0], x, weights[1]) < 1e-2
    torch.compiler.reset()  # the other cases would count as recompilations
    compiled = torch.compile(form, fullgraph=True)
    with torch.no_grad():
        for batch in (1, 5, 40):
            x = torch.randn(batch, 512, device="cuda", dtype=torch.bfloat16)
            assert error(compiled(x), weights[0], x, weights[1]) < 1e-2
    for batch in (1, 40):
        x = torch.randn(batch, 512, device="cuda", dtype=torch.bfloat16)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream), torch.no_grad():
            form(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph), torch.no_grad():
            y = form(x)
        x.normal_()
        graph.replay()
        torch.cuda.synchronize()
        assert error(y, weights[0], x, weights[1]) < 1e-2
    dense = form.dense()
    assert torch.equal(dense.weight, layer.weight)
    assert torch.equal(copy.deepcopy(form).dense().weight, layer.weight)
    assert form.nbytes < 0.85 * sum(parameter.nbytes for parameter in layer.parameters())


def test_the_operators_pass_torchs_own_checks():
    form = PackedLinear(linear(300, 200, 0.7))
    packed = form.offsets, form.order, form.starts, form.gaps, form.values, form.bias
    checks = ("test_schema", "test_faketensor")
    for batch in (1, 30):
        x = torch.randn(batch, 300, device="cuda", dtype=torch.bfloat16)
        torch.library.opcheck(lanes.lanes_linear, (x, *packed), test_utils=checks)


def test_2_4_says_what_does_not_fit():
    one, x = SemiStructuredOnGPU(), torch.randn(1, 512, device="cuda", dtype=torch.bfloat16)
    assert "groups of four weights have more than two non-zeros" in one.misfit(linear(512, 256, 0.5), x)
    assert "a multiple of" in one.misfit(two_of_four(linear(512, 255, 0.0)), x)
    wide = two_of_four(linear(512, 256, 0.0, torch.float32))
    assert "not in torch.float32" in one.misfit(wide, x.float())
    assert "torch.bfloat16 and torch.float32" in one.misfit(wide, x)


def test_the_order_of_zeros_and_a_conv1d_do_not_matter():
    from transformers.pytorch_utils import Conv1D

    layer = Conv1D(256, 512).cuda().bfloat16().eval()
    with torch.no_grad():
        layer.weight *= torch.rand_like(layer.weight) >= 0.8
    x = torch.randn(2, 512, device="cuda", dtype=torch.bfloat16)
    form = PackedOnGPU().convert(layer)
    assert error(form(x), layer.weight.t(), x, layer.bias) < 1e-2
    assert torch.equal(form.dense().weight, layer.weight)


def test_accelerate_takes_the_packed_product_where_weights_are_read_once():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8192, 8192), nn.ReLU(), nn.Linear(8192, 8192)).bfloat16()
    ow.prune(model, ow.GradualMagnitude(ow.OneShot(0.9)))
    model = model.cuda().eval()
    x = torch.randn(1, 8192, device="cuda", dtype=torch.bfloat16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accelerated = ow.accelerate(model, x, graph=True)
    assert [layer.kernel for layer in accelerated.layers] == ["packed product"] * 2
    assert accelerated.speedup > 1.5
    for batch in (1, 4, 64):
        x = torch.randn(batch, 8192, device="cuda", dtype=torch.bfloat16)
        with torch.no_grad():
            y, expected = accelerated.model(x), model(x)
        assert float((y - expected).norm() / expected.norm()) < 2e-2
