"""Noise by a key: random, independent, and the same wherever and however it is computed."""

import math

import pytest
import torch
import torch._dynamo
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx

from openwork.noise import (
    draws_for,
    is_keyed,
    key,
    keyed,
    keys,
    middles_of,
    mixed,
    next_draw,
    normal,
    uniform,
)
from openwork.quantile import normal_quantile

N = 2**20
ONE = torch.zeros(())  # a tensor like which noise is to be
SIGMAS = 6  # of what a statistic of independent draws varies by


def drawn(draw, seed=0, step=0, part=0, name="fc.weight", shape=(N,), calls=1, like=ONE):
    """The last of ``calls`` draws."""
    with keyed(torch.tensor(key(seed, step, part))):
        draws_for(name)
        return [draw(shape, like) for _ in range(calls)][-1]


def test_normal_noise_has_the_moments_of_a_normal_distribution():
    noise = torch.cat([drawn(normal, seed).double() for seed in range(4)])
    n = len(noise)
    moments = [noise.mean().item(), noise.var().item(), (noise**3).mean().item(), (noise**4).mean().item()]
    spreads = [math.sqrt(v / n) for v in (1, 2, 15, 96)]  # of the first moments' means: E x^2k - (E x^k)^2
    for found, expected, spread in zip(moments, (0, 1, 0, 3), spreads, strict=True):
        assert found == pytest.approx(expected, abs=SIGMAS * spread)


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 4.5])
def test_normal_noise_has_the_tails_of_a_normal_distribution(limit):
    noise = torch.cat([drawn(normal, seed) for seed in range(8)])
    share = math.erfc(limit / math.sqrt(2)) / 2
    spread = math.sqrt(share / len(noise))
    for tail in (noise > limit, noise < -limit):
        assert tail.double().mean().item() == pytest.approx(share, abs=SIGMAS * spread)
    assert noise.abs().max() < 5.5


def test_uniform_noise_is_uniform_in_each_of_1024_bins():
    counts = torch.histc(torch.cat([drawn(uniform, seed) for seed in range(4)]), bins=1024, min=0, max=1)
    expected = 4 * N / 1024
    chi2 = ((counts - expected) ** 2 / expected).sum().item()
    assert chi2 == pytest.approx(1023, abs=SIGMAS * math.sqrt(2 * 1023))


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"seed": 2**62},
        {"step": 1},
        {"step": 2},
        {"part": 1},
        {"seed": 1, "step": 1},
        {"name": "fc.weighs"},
        {"name": "fd.weight"},
        {"name": ""},
        {"calls": 2},
        {"calls": 3},
    ],
    ids=str,
)
def test_draws_of_other_names_steps_seeds_parts_and_calls_are_independent(other):
    ours, theirs = drawn(normal).double(), drawn(normal, **other).double()
    for power in (1, 2):  # the squares as well: noise of equal size and random sign is uncorrelated
        a, b = ((x**power - (x**power).mean()) / (x**power).std() for x in (ours, theirs))
        assert (a * b).mean().item() == pytest.approx(0, abs=SIGMAS / math.sqrt(N))
    assert (ours == theirs).double().mean() < 1e-4  # equal by chance: 2^24 values


def test_neighbours_in_a_tensor_are_independent():
    noise = drawn(normal).double()
    for lag in (1, 2, 3, 64, 300, 784, 4096, 2**16):
        for power in (1, 2):
            x = noise**power - (noise**power).mean()
            x = x / x.std()
            assert (x[lag:] * x[:-lag]).mean().item() == pytest.approx(0, abs=SIGMAS / math.sqrt(N - lag)), lag


def test_a_place_is_independent_over_a_thousand_seeds_and_over_a_thousand_steps():
    for of_keys in (keys(torch.arange(1000), 5), torch.stack([keys(torch.tensor(3), step) for step in range(1000)])):

        def one(key):
            with keyed(key):
                draws_for("fc.weight")
                return normal((1000,), ONE)

        noise = vmap(one)(of_keys).double()
        means = noise.mean(0) * math.sqrt(1000)  # standard normal, for each place
        assert (means**2).sum().item() == pytest.approx(1000, abs=SIGMAS * math.sqrt(2 * 1000))
        neighbours = (noise[1:] * noise[:-1]).mean().item()
        assert neighbours == pytest.approx(0, abs=SIGMAS / 1000)
        means = noise.mean(1) * math.sqrt(1000)  # for each key
        assert (means**2).sum().item() == pytest.approx(1000, abs=SIGMAS * math.sqrt(2 * 1000))


def test_a_million_keys_are_different():
    found = torch.stack([keys(torch.arange(1000), step) for step in range(1000)])
    assert len(found.unique()) == 1_000_000


def test_keys_are_those_of_each_seed():
    seeds = [0, 1, 4001, 2**31, 2**32 + 1, 2**63 - 1]
    for step in (0, 1, 12_000, 2**40):
        expected = [key(seed, step) for seed in seeds]
        assert keys(torch.tensor(seeds), step).tolist() == expected
        assert keys(torch.tensor(seeds), torch.tensor(step)).tolist() == expected


def test_the_hash_is_lowbias32():
    def in_python(x: int) -> int:
        x = (x ^ x >> 16) * 0x7FEB352D % 2**32
        x = (x ^ x >> 15) * 0x846CA68B % 2**32
        return x ^ x >> 16

    values = [0, 1, 2, 12_345, 2**31, 2**32 - 1]
    found = mixed(torch.tensor([v if v < 2**31 else v - 2**32 for v in values], dtype=torch.int32))
    assert [v % 2**32 for v in found.tolist()] == [in_python(v) for v in values]


def layer(key, x):
    """What draws by two names, and by one of them twice."""
    with keyed(key):
        draws_for("fc1.weight")
        first = normal(x.shape, x), uniform((7,), x)
        draws_for("fc2.weight")
        return *first, normal((2, 3), x)


KEYS = torch.tensor([key(seed, 7) for seed in range(4)])


def test_each_of_stacked_models_draws_what_it_draws_alone():
    x = torch.zeros(5, 3)
    alone = [layer(each, x) for each in KEYS]
    for found, expected in zip(vmap(layer, in_dims=(0, None))(KEYS, x), zip(*alone, strict=True), strict=True):
        assert torch.equal(found, torch.stack(expected))


def test_what_make_fx_traces_draws_by_the_key_that_it_gets():
    x = torch.zeros(5, 3)
    stacked = vmap(layer, in_dims=(0, None))
    traced = make_fx(stacked)(KEYS, x)
    for found, expected in zip(traced(KEYS + 1, x), stacked(KEYS + 1, x), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@torch._dynamo.config.patch(error_on_recompile=True)
def test_compiled_code_draws_by_the_key_without_compiling_again(backend):
    torch._dynamo.reset()  # what the other backend has compiled
    x = torch.zeros(5, 3)
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    for each in KEYS:
        for found, expected in zip(compiled(each, x), layer(each, x), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@torch._dynamo.config.patch(error_on_recompile=True)
def test_compiled_code_inside_keyed_draws_by_the_key_without_compiling_again():
    def inside(x):
        draws_for("fc1.weight")
        return normal(x.shape, x)

    compiled, x = torch.compile(inside, backend="aot_eager", fullgraph=True), torch.zeros(5, 3)
    for each in KEYS:
        with keyed(each):
            found = compiled(x)
        with keyed(each):
            assert torch.equal(found, inside(x))


@pytest.mark.gpu
def test_a_gpu_draws_what_a_cpu_draws_also_in_a_cuda_graph():
    x = torch.zeros(1000, 3, device="cuda")
    current = KEYS[0].cuda()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        layer(current, x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = layer(current, x)
    for each in KEYS:
        current.copy_(each)
        graph.replay()
        for ours, theirs in zip(found, layer(each, x.cpu()), strict=True):
            torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-5, atol=1e-6)
    assert torch.equal(keys(torch.arange(4).cuda(), 7).cpu(), KEYS)


@pytest.mark.parametrize("draw", [normal, uniform])
def test_otherwise_noise_is_torchs(draw):
    of_torch = {normal: torch.randn, uniform: torch.rand}[draw]
    torch.manual_seed(0)
    expected = of_torch(5)
    torch.manual_seed(0)
    draws_for("fc.weight")
    assert torch.equal(draw((5,), ONE), expected)
    with keyed(KEYS[0]):  # a generator wins
        assert torch.equal(draw((5,), ONE, torch.Generator().manual_seed(0)), expected)
    state = torch.get_rng_state()
    drawn(draw)
    assert torch.equal(torch.get_rng_state(), state)


def test_keys_nest_and_end_where_their_block_does():
    with keyed(KEYS[0]):
        first = normal((5,), ONE)
        with pytest.raises(TypeError), keyed(KEYS[1]):
            normal(5, ONE)
        with keyed(KEYS[1]):
            assert not torch.equal(normal((5,), ONE), first)
        second = normal((5,), ONE)
    assert not is_keyed()
    with keyed(KEYS[0]):
        assert torch.equal(torch.stack([normal((5,), ONE), normal((5,), ONE)]), torch.stack([first, second]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_noise_has_the_dtype_and_rounds_to_no_1(dtype):
    noise = drawn(uniform, like=ONE.to(dtype))
    assert noise.dtype == dtype
    assert 0 <= noise.min() < 1e-2
    assert 0.99 < noise.max() < 1
    assert noise.double().mean().item() == pytest.approx(0.5, abs=2**-8)
    noise = drawn(normal, like=ONE.to(dtype))
    assert noise.dtype == dtype
    torch.testing.assert_close(noise.float(), drawn(normal), rtol=1e-2, atol=1e-6)


def test_shapes_without_numbers_and_without_axes():
    assert drawn(normal, shape=(0, 3)).shape == (0, 3)
    assert drawn(normal, shape=()).shape == ()


def test_the_noise_of_a_draw_can_be_computed_again():
    with keyed(torch.tensor(key(1, 2))):
        noise = normal((5, 7), ONE)
    with keyed(torch.tensor(key(1, 2))):
        draw, later = next_draw(ONE.device), next_draw(ONE.device)
    for _ in range(2):
        assert torch.equal(math.sqrt(2) * torch.erfinv(middles_of(draw, (5, 7), ONE)), noise)
    assert not torch.equal(middles_of(later, (5, 7), ONE), middles_of(draw, (5, 7), ONE))


def test_the_quantile_for_compiled_noise_is_normal_to_four_digits():
    middles = (torch.arange(2**23) * 2.0**-23 + 2.0**-24)[:: 2**4 - 1]  # positive ones, the two ends among them
    middles = torch.cat([middles[:1], middles, middles.new_full((1,), 1 - 2.0**-24)])
    expected = math.sqrt(2) * torch.erfinv(middles.double())
    assert ((normal_quantile(middles).double() - expected).abs() / expected).max() < 5e-5
    assert torch.equal(normal_quantile(-middles), -normal_quantile(middles))
    values = normal_quantile(middles[1:-1]).double()
    assert values.square().mean().item() == pytest.approx(1, abs=1e-4)
    assert (values**4).mean().item() == pytest.approx(3, abs=1e-3)


def test_without_a_key_draws_come_from_torch():
    torch.manual_seed(0)
    first, second = next_draw(ONE.device), next_draw(ONE.device)
    torch.manual_seed(0)
    assert next_draw(ONE.device) == first != second


def test_middles_never_reach_the_ends():
    noise = drawn(lambda shape, like: middles_of(next_draw(like.device), shape, like))
    assert 1 - 2.0**-16 < noise.abs().max() < 1
    assert noise.mean().item() == pytest.approx(0, abs=SIGMAS * math.sqrt(1 / 3 / N))
