"""Weights times hard-concrete gates in closed form, beside the formula of the paper in float64."""

import math

import pytest
import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch._dynamo.backends.common import aot_autograd
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jvp, vmap

from openwork.kernels import divergence, gate_sums, gates
from openwork.noise import draw_of, key, keyed, middles_of, next_key

CPU = torch.device("cpu")
SIGMAS = 6


def drawn(seed=0):
    with keyed(torch.tensor(key(seed, 0))):
        return next_key(CPU)


def kept(weight, log_alpha, draw):
    """`gated` as a CPU computes it."""
    return gates._Kept.apply(weight, log_alpha, gates._odds(log_alpha, *draw))


def regenerated(weight, log_alpha, draw):
    """`gated` as a GPU computes it."""
    return gates._Regenerated.apply(weight, log_alpha, *draw)


def by_the_paper(weight, log_alpha, draw):
    """Equations 10 and 11, in float64."""
    weight, log_alpha = weight.double(), log_alpha.double()
    u = (middles_of(draw_of(*draw), log_alpha.shape, log_alpha) + 1) / 2
    s = torch.sigmoid((torch.log(u) - torch.log(1 - u) + log_alpha) / (2 / 3))
    return weight * (s * 1.2 - 0.1).clamp(0, 1)


def pair(dtype=torch.float64, shape=(50, 41)):
    generator = torch.Generator().manual_seed(1)
    weight, log_alpha = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return weight.to(dtype).requires_grad_(), (3 * log_alpha).to(dtype).requires_grad_()


WAYS = pytest.mark.parametrize("way", [kept, regenerated], ids=lambda way: way.__name__)


@WAYS
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)], ids=str)
def test_gates_and_gradients_are_those_of_the_papers_formula(way, dtype, tolerance):
    weight, log_alpha = pair(dtype)
    found, expected = way(weight, log_alpha, drawn()), by_the_paper(weight, log_alpha, drawn())
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    assert 0.1 < (found == 0).double().mean() < 0.9
    gradient = torch.randn_like(found)
    ours = torch.autograd.grad(found, (weight, log_alpha), gradient)
    theirs = torch.autograd.grad(expected, (weight, log_alpha), gradient.double())
    for mine, yours in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.double(), yours.double(), rtol=tolerance, atol=tolerance)


@WAYS
def test_second_derivatives_are_right(way):
    weight, log_alpha = pair(shape=(3, 4))
    assert gradcheck(lambda *args: way(*args, drawn()), (weight, log_alpha))
    assert gradgradcheck(lambda *args: way(*args, drawn()), (weight, log_alpha))


@WAYS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_extreme_gates_are_exactly_open_or_closed_and_have_finite_gradients(way, dtype):
    values = [-math.inf, -1e30, -1000.0, -200.0, -80.0, 80.0, 200.0, 1000.0, 1e30, math.inf]
    log_alpha = torch.tensor(values, dtype=dtype).repeat(1000, 1).requires_grad_()
    weight = torch.full_like(log_alpha, 3.0).detach().requires_grad_()
    found = way(weight, log_alpha, drawn())
    expected = torch.tensor([0.0] * 5 + [3.0] * 5, dtype=dtype)
    assert torch.equal(found.detach(), expected.expand_as(found))
    found.sum().backward()
    assert torch.equal(weight.grad, expected.expand_as(found) / 3)
    assert torch.equal(log_alpha.grad, torch.zeros_like(log_alpha))


@pytest.mark.parametrize("place", [-(2**23), 2**23 - 1, 0], ids=["least", "most", "middle"])
@pytest.mark.parametrize("log_alpha", [-30.0, -15.0, 0.0, 15.0, 30.0])
def test_gates_are_right_for_noise_at_its_ends(place, log_alpha, monkeypatch):
    middle = place * 2.0**-23 + 2.0**-24
    monkeypatch.setattr(gates, "middles_of", lambda draw, shape, like, again=False: like.new_full(shape, middle))
    found = gates.plain_product(torch.ones(1), torch.tensor([log_alpha]), *drawn())
    u = (middle + 1) / 2
    exponent = 1.5 * (math.log(u) - math.log1p(-u) + log_alpha)
    expected = min(max(1.2 / (1 + math.exp(-exponent)) - 0.1, 0), 1)
    assert found.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("source", ["torch", "a key"])
@pytest.mark.parametrize("log_alpha", [-2.0, 0.0, 2.197])
def test_gates_have_the_mean_and_the_zeros_of_the_theory(source, log_alpha):
    n = 400_000
    torch.manual_seed(0)
    ones, values = torch.ones(n), torch.full((n,), log_alpha)
    if source == "torch":
        z = gates.gated(ones, values)
    else:
        with keyed(torch.tensor(key(0, 0))):
            z = gates.gated(ones, values)
    closed = 1 / (1 + math.exp(log_alpha + 1.5986))
    spread = math.sqrt(closed * (1 - closed) / n)
    assert (z == 0).double().mean().item() == pytest.approx(closed, abs=SIGMAS * spread + 1e-5)
    # E z is the integral of P(z > x) over x in [0, 1], P = sigmoid(log alpha - beta * logit((x + 0.1) / 1.2)).
    x = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    mean = torch.sigmoid(log_alpha - 2 / 3 * torch.logit((x + 0.1) / 1.2)).mean().item()
    assert z.double().mean().item() == pytest.approx(mean, abs=SIGMAS * 0.5 / math.sqrt(n))


def kept_bytes(function):
    """How many bytes the backward pass keeps besides ``function``'s arguments."""
    found = {}
    weight, log_alpha = pair(torch.float32)
    given = {each.untyped_storage().data_ptr() for each in (weight, log_alpha)}

    def pack(tensor):
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        found_output = function(weight, log_alpha)
    assert found_output.requires_grad
    return sum(size for place, size in found.items() if place not in given)


IDS = torch.tensor([[3, 0, 3], [1, 3, 2]])


def look_up(ids, matrix):
    return torch.nn.functional.embedding(ids, matrix, padding_idx=0)


def regenerated_rows(weight, log_alpha, draw):
    """`gated_rows` as a GPU computes them."""
    rows = look_up(IDS, weight), look_up(IDS, log_alpha)
    return gates._RegeneratedRows.apply(*rows, weight, log_alpha, IDS, *draw)


def test_rows_that_are_looked_up_again_have_the_same_gates_and_gradients():
    pairs = [pair(shape=(5, 4)) for _ in "ab"]
    found = regenerated_rows(*pairs[0], drawn())
    with keyed(torch.tensor(key(0, 0))):
        expected = gates.gated_rows(look_up, IDS, *pairs[1])
    torch.testing.assert_close(found, expected)
    assert not torch.equal(found[0, 0], found[0, 2])  # each occurrence has its own gates
    gradient = torch.randn_like(found)
    ours = torch.autograd.grad(found, pairs[0], gradient)
    theirs = torch.autograd.grad(expected, pairs[1], gradient)
    torch.testing.assert_close(ours, theirs)
    assert not ours[0][0].any()  # of the padding
    weight, log_alpha = pair(shape=(5, 4))
    assert gradgradcheck(lambda *pair: regenerated_rows(*pair, drawn())[:, 1:], (weight, log_alpha))


def test_what_can_be_computed_again_is_not_kept():
    assert kept_bytes(lambda *pair: regenerated_rows(*pair, drawn())) == 8 + IDS.untyped_storage().nbytes()
    assert kept_bytes(lambda *pair: regenerated(*pair, drawn())) == 8  # the key
    assert kept_bytes(lambda *pair: kept(*pair, drawn())) == 4 * 50 * 41  # z
    assert kept_bytes(lambda w, a: gate_sums.open_cost(torch.ones(2), [a], [w])) == 8  # the factors


@pytest.mark.parametrize("way", [kept, regenerated, regenerated_rows], ids=lambda way: way.__name__)
def test_the_whole_compiles_to_one_graph_that_computes_the_same(way):
    def function(weight, log_alpha):
        return way(weight, log_alpha, drawn()).square().sum()

    args = pair(torch.float32)
    expected = torch.autograd.grad(function(*args), args)
    found = torch.autograd.grad(torch.compile(function, fullgraph=True, backend="aot_eager")(*args), args)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_compiler_keeps_nothing_but_the_key_for_layers_of_one_shape():
    pairs = [pair(torch.float32, (8, 8)) for _ in range(4)]
    x = torch.randn(3, 8)
    found = []

    def function(x):
        with keyed(torch.randint(2**62, ())):
            for each in pairs:
                x = torch.tanh(x @ regenerated(*each, next_key(CPU)))
        return x.square().sum() + gate_sums.open_cost(torch.ones(2), [a for _, a in pairs], [w for w, _ in pairs])

    def forward(module, _):
        (output,) = (node for node in module.graph.nodes if node.op == "output")
        found.extend(node.meta["val"] for node in output.args[0][1:] if node.op != "placeholder")
        return make_boxed_func(module.forward)

    backend = aot_autograd(
        fw_compiler=forward,
        bw_compiler=lambda module, _: make_boxed_func(module.forward),
        partition_fn=min_cut_rematerialization_partition,
    )
    torch.compile(function, backend=backend, fullgraph=True)(x).backward()
    # Activations (3, 8), and weights (8, 8), but for those of the first layer: x needs no gradient.
    shapes = [tuple(each.shape) for each in found]
    assert [each.dtype for each in found if each.shape == ()] == [torch.int64]
    assert sum(shape == (8, 8) for shape in shapes) == 3


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # by torch
def test_transforms_of_functions_get_torchs_own_operations():
    weight, log_alpha = (each.detach() for each in pair())

    def function(weight, log_alpha):
        with keyed(torch.tensor(key(0, 0))):
            return gates.gated(weight, log_alpha).square().sum()

    leaves = [each.clone().requires_grad_() for each in (weight, log_alpha)]
    expected = torch.autograd.grad(function(*leaves), leaves)
    found = grad(function, argnums=(0, 1))(weight, log_alpha)
    torch.testing.assert_close(found, expected)
    _, along = jvp(function, (weight, log_alpha), (weight, log_alpha))
    torch.testing.assert_close(along, sum((g * t).sum() for g, t in zip(expected, leaves, strict=True)))
    rows = vmap(grad(function))(torch.stack([weight, 2 * weight]), torch.stack([log_alpha, log_alpha]))
    torch.testing.assert_close(rows[0], expected[0])
    torch.testing.assert_close(rows[1], 2 * expected[0])
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(weight, weight)
        assert torch.autograd.forward_ad.unpack_dual(function(dual, log_alpha)).tangent is not None


@pytest.mark.parametrize("squares", [False, True], ids=["count", "count and norm"])
def test_the_cost_of_open_gates_has_the_gradients_of_its_formula(squares):
    pairs = [pair(shape=shape) for shape in ((3, 4), (5,), (0, 2), (2, 3, 1, 1))]
    log_alphas, weights = [a for _, a in pairs], [w for w, _ in pairs] if squares else []
    factors = torch.tensor([0.7, 0.3], dtype=torch.float64)
    found = gate_sums.open_cost(factors, log_alphas, weights)
    chances = [torch.sigmoid(a + 2 / 3 * math.log(11)) for a in log_alphas]
    expected = 0.7 * sum(p.sum() for p in chances)
    expected = expected + 0.3 * sum((p * w * w).sum() for p, w in zip(chances, weights, strict=squares))
    torch.testing.assert_close(found, expected)
    leaves = [*log_alphas, *weights]
    torch.testing.assert_close(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves))
    function = torch.compile(
        lambda: gate_sums.open_cost(factors, log_alphas, weights), backend="aot_eager", fullgraph=True
    )
    torch.testing.assert_close(
        torch.autograd.grad(function(), leaves),
        torch.autograd.grad(gate_sums.open_cost(factors, log_alphas, weights), leaves),
    )


def test_the_operations_are_as_torch_wants_them():
    weight, log_alpha = (each.detach() for each in pair(torch.float32, (3, 4)))
    torch.library.opcheck(gates.product, (weight, log_alpha, *drawn()))
    torch.library.opcheck(gates.gradients, (weight, weight, log_alpha, *drawn()))
    torch.library.opcheck(gate_sums.open_sums, ([log_alpha, weight], [weight, log_alpha]))
    kernel = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    torch.library.opcheck(gates.product, (kernel, kernel, *drawn()))
    assert torch.equal(gates.product(kernel, kernel, *drawn()), gates.plain_product(kernel, kernel, *drawn()))
    transposed = torch.randn(4, 3).t()
    assert torch.equal(gates.product(transposed, weight, *drawn()), gates.plain_product(transposed, weight, *drawn()))


@pytest.mark.parametrize("few", [gates.lie_alike, divergence._fits], ids=["gates", "divergence"])
def test_a_kernel_takes_no_more_than_int32_counts_with_its_last_block(few):
    most, more = torch.empty(2**31 - 2**16, device="meta"), torch.empty(2**31 - 2**16 + 1, device="meta")
    assert few(most, most)
    assert not few(more, more)
