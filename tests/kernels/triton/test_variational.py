"""Variational dropout's Triton kernels beside torch: in Triton's interpreter (TRITON_INTERPRET=1), or on a GPU."""

import importlib.util
import math
import os

import pytest
import torch
import torch.nn.functional as F

from openwork.core.parameters.noisy import noise_shape
from openwork.kernels.divergence import Divergence, divergence_plain
from openwork.kernels.variational import noisy_plain
from openwork.noise import middles_of, next_draw, normal_of
from openwork.quantile import normal_quantile
from tests.core.noisy_cases import CASES, assert_close, compared, made

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    *([] if INTERPRETED else [pytest.mark.gpu]),
]
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
SHAPES = [(1,), (33, 70), (3, 5, 7), (2, 5, 3, 4), (2, 70, 9, 4), (2, 3, 2, 3, 2), (0, 4), (5000,), (4, 300, 2)]
# A GPU adds to products without rounding them, which noise shows up to 1e-5; bfloat16 may then be rounded the other
# way, and the interpreter cuts it off.
TOLERANCES = {torch.float32: 2e-6 if INTERPRETED else 1e-5, torch.bfloat16: 2.0**-7}


@pytest.fixture
def kernels():
    from openwork.kernels.triton import variational as kernels

    return kernels


def close(found, expected, dtype):
    return torch.allclose(found.float(), expected.float(), rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "turned"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_noise_and_its_slope_are_those_of_the_plain_twin(kernels, shape, layout, dtype):
    torch.manual_seed(0)
    mean, variance = torch.randn(shape, device=DEVICE, dtype=dtype), torch.rand(shape, device=DEVICE, dtype=dtype)
    if layout == "channels last":
        if len(shape) not in (4, 5):
            pytest.skip("has no channels")
        mean = mean.to(memory_format=torch.channels_last if len(shape) == 4 else torch.channels_last_3d)
    if layout == "turned":
        mean = torch.randn(shape[::-1], device=DEVICE, dtype=dtype).permute(*range(len(shape))[::-1])
    draw = next_draw(DEVICE)
    for shared in (False, True) if len(shape) > 2 else (False,):
        noise = normal_quantile(middles_of(draw, noise_shape(mean.shape, shared), mean.float()))
        torch.testing.assert_close(noise, normal_of(draw, noise.shape, noise), rtol=5e-5, atol=0)
        expected = noisy_plain(mean, variance, noise)
        y, slope = kernels.noisy(mean, variance, draw.factor, draw.offset, shared, True)
        assert y.dtype == slope.dtype == dtype
        assert close(y, expected[0], dtype)
        assert close(slope, expected[1], dtype)
        alone, nothing = kernels.noisy(mean, variance, draw.factor, draw.offset, shared, False)
        assert torch.equal(alone, y)
        assert nothing.numel() == 0
        if layout == "channels last" and not shared:
            assert y.stride() == mean.stride()


def test_noise_is_normal_with_its_tails(kernels):
    n = 2**16 if INTERPRETED else 2**24
    zeros = torch.zeros(n, device=DEVICE)
    draws = [next_draw(DEVICE) for _ in range(2)]
    first, second = (kernels.noisy(zeros, zeros + 1, *draw, False, False)[0].double() for draw in draws)
    for noise in (first, second):
        moments = [noise.mean(), noise.var(), (noise**3).mean(), (noise**4).mean()]
        spreads = [math.sqrt(v / n) for v in (1, 2, 15, 96)]  # of the first moments' means
        for found, expected, spread in zip(moments, (0, 1, 0, 3), spreads, strict=True):
            assert found.item() == pytest.approx(expected, abs=6 * spread)
        for limit in (1, 2, 3, 4, 4.5):
            share = math.erfc(limit / math.sqrt(2))
            assert (noise.abs() > limit).double().mean().item() == pytest.approx(share, abs=6 * math.sqrt(share / n))
        assert noise.abs().max() < 5.5
    for a, b in ((first, second), (first**2, second**2), (first[1:], first[:-1]), (first[64:], first[:-64])):
        assert torch.corrcoef(torch.stack([a, b]))[0, 1].abs() < 6 / math.sqrt(len(a))


@pytest.mark.parametrize("memory", ["fast", "small"])
@pytest.mark.parametrize("name", CASES)
def test_layers_that_use_the_kernels_have_the_gradients_of_the_formulas(kernels, name, memory, monkeypatch):
    monkeypatch.setattr("openwork.core.parameters.noisy.has_kernel", lambda device, dtype: True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    layer, _, x = made(name, memory)
    layer, x = layer.float().to(DEVICE), (x.float() if x.is_floating_point() else x).to(DEVICE)
    assert_close(compared(name, layer, x, layer), 1e-4)


def weights(device):
    torch.manual_seed(0)
    thetas = [0.3 * torch.randn(shape) for shape in [(5, 7), (4100,), (3, 2, 3, 3), (0, 4), (1,)]]
    thetas[0][0, :3] = torch.tensor([0.0, 50.0, 1e-5])
    thetas[2] = thetas[2].to(memory_format=torch.channels_last)
    log_sigma2s = [3 * torch.randn_like(theta) - 6 for theta in thetas]
    return [[each.to(device) for each in tensors] for tensors in (thetas, log_sigma2s)]


def test_the_divergence_and_its_gradients_are_those_of_the_plain_twin():
    from openwork.kernels.triton import divergence

    thetas, log_sigma2s = weights(DEVICE)
    scale = torch.tensor(0.37, device=DEVICE)
    value, gradients = divergence.divergence(thetas, log_sigma2s, 8.0, scale, True)
    double = [[each.double() for each in tensors] for tensors in (thetas, log_sigma2s)]
    expected = divergence_plain(*double, 8.0, scale.double(), sloped=True)
    assert value.item() == pytest.approx(expected[0].item(), rel=1e-6)
    for factor in (1, 3):
        divergence.scale(gradients, torch.tensor(float(factor), device=DEVICE))
        for found, exact, like in zip(gradients, expected[1], thetas + log_sigma2s, strict=True):
            assert found.stride() == like.stride()
            torch.testing.assert_close(found.double(), factor * exact, rtol=1e-5, atol=1e-6)
    assert divergence.divergence(thetas, log_sigma2s, 8.0, scale, False)[0] == value


def test_weights_that_do_not_begin_at_a_multiple_of_16_bytes_are_taken():
    from openwork.kernels.triton import divergence

    storage = torch.randn(2, 8001, device=DEVICE)
    theta, log_sigma2 = storage[0, 1:], storage[1, 2:].clone().resize_(8000)
    log_sigma2.copy_(storage[1, 1:])
    scale = torch.ones((), device=DEVICE)
    found = divergence.divergence([theta], [log_sigma2], 8.0, scale, True)
    expected = divergence_plain([theta], [log_sigma2], 8.0, scale, sloped=True)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=0)
    for ours, theirs in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(INTERPRETED, reason="needs a GPU")
def test_a_cuda_graph_replays_layers_and_divergence_with_new_noise():
    layer, sparsifier, x = made("matrix")
    layer, x = layer.float().cuda(), x.float().cuda()
    sparsifier._mechanism._coefficient = torch.tensor(1e-3, device="cuda")

    def step():
        layer.zero_grad(set_to_none=True)
        y = layer(x)
        (y.square().sum() + sparsifier.penalty()).backward()
        return y

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = step()
    results = []
    for _ in range(2):
        graph.replay()
        results.append(y.clone())
    assert not torch.allclose(*results)


@pytest.mark.skipif(INTERPRETED, reason="needs a GPU")
def test_a_divergence_on_a_gpu_takes_the_kernel_and_has_its_gradients():
    thetas, log_sigma2s = ([each.requires_grad_() for each in tensors] for tensors in weights("cuda"))
    Divergence.apply(8.0, torch.tensor(0.5, device="cuda"), *thetas, *log_sigma2s).mul(3).backward()
    expected = divergence_plain(
        *([each.detach().double() for each in tensors] for tensors in (thetas, log_sigma2s)),
        8.0,
        torch.tensor(1.5, device="cuda", dtype=torch.float64),
        sloped=True,
    )
    for tensor, exact in zip([*thetas, *log_sigma2s], expected[1], strict=True):
        torch.testing.assert_close(tensor.grad.double(), exact, rtol=1e-5, atol=1e-6)
    assert F.relu(thetas[0]).isfinite().all()
