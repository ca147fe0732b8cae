"""The Triton kernels for gates beside plain torch: in Triton's interpreter (TRITON_INTERPRET=1), or on a GPU."""

import importlib.util
import os

import pytest
import torch

from openwork.kernels import gate_sums, gates
from openwork.noise import key, keyed, next_key

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning"),  # of NumPy; 1 / (1 + inf) is 0
    *([] if INTERPRETED else [pytest.mark.gpu]),
]
LAST = {"memory_format": torch.channels_last}
SHAPES = {
    "a number": (),
    "empty": (0, 3),
    "a vector": (7,),
    "a matrix of more than a block": (37, 41),
    "a kernel": (3, 5, 2, 3),
    "a kernel with channels last": (3, 5, 2, 3),
}


def pair(shape, seed=0):
    """A weight, and log alpha with both extremes."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator)
    log_alpha = 3 * torch.randn(shape, generator=generator)
    for place, value in enumerate((80.0, -80.0, 200.0, -200.0)[: log_alpha.numel()]):
        log_alpha.view(-1)[place] = value
    return weight.to(DEVICE), log_alpha.to(DEVICE)


def drawn(seed=1):
    with keyed(torch.tensor(key(seed, 2), device=DEVICE)):
        return next_key(DEVICE)


@pytest.mark.parametrize("seed", [1, 2, 3])  # numbers of draws that are divisible by 16, and negative ones
@pytest.mark.parametrize("name", SHAPES)
def test_products_and_their_gradients_are_those_of_plain_torch(name, seed):
    from openwork.kernels.triton import gates as kernels

    draw = drawn(seed)
    draw = (draw[0], (draw[1] & ~15) * (-1) ** seed)
    weight, log_alpha = pair(SHAPES[name])
    gradient = torch.randn_like(weight)
    if "last" in name:
        weight, log_alpha, gradient = (each.contiguous(**LAST) for each in (weight, log_alpha, gradient))
    out = kernels.product(weight, log_alpha, *draw, torch.empty_like(weight))
    torch.testing.assert_close(out, gates.plain_product(weight, log_alpha, *draw), rtol=1e-5, atol=1e-6)
    found = kernels.gradients(gradient, weight, log_alpha, *draw, torch.empty_like(weight), torch.empty_like(weight))
    expected = gates.plain_gradients(gradient, weight, log_alpha, *draw)
    for ours, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
        assert ours.stride() == weight.stride()


def test_nan_stays_nan():
    from openwork.kernels.triton import gates as kernels

    nan = torch.full((3,), torch.nan, device=DEVICE)
    assert kernels.product(torch.ones_like(nan), nan, *drawn(), torch.empty_like(nan)).isnan().all()


LISTS = {
    "one": [(3,)],
    "of more than a stretch": [(9000,), (5,), (100, 200), (1,)],
    "with an empty one": [(4, 4), (0, 3), (2, 3, 1, 1)],
    "empty alone": [(0,)],
    "many": [(n,) for n in range(1, 40)],
}


@pytest.mark.parametrize("squares", [False, True], ids=["count", "count and norm"])
@pytest.mark.parametrize("name", LISTS)
def test_sums_and_their_gradients_are_those_of_plain_torch(name, squares):
    from openwork.kernels.triton import gate_sums as kernels

    pairs = [pair(shape, seed) for seed, shape in enumerate(LISTS[name])]
    log_alphas = [log_alpha for _, log_alpha in pairs]
    weights = [weight for weight, _ in pairs] if squares else []
    found = kernels.sums(log_alphas, weights, gate_sums.SHIFT)
    expected = gate_sums.plain_sums([x.double() for x in log_alphas], [x.double() for x in weights])
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    factors = torch.tensor([0.7, 0.3], device=DEVICE)
    gradients = kernels.gradients(factors, log_alphas, weights, gate_sums.SHIFT)
    plain = gate_sums.plain_gradients(factors, log_alphas, weights)
    for ours, theirs, tensor in zip(gradients, plain, [*log_alphas, *weights], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        assert ours.stride() == tensor.stride()


def test_a_table_is_made_once_for_the_same_weights():
    from openwork.kernels.triton import gate_sums as kernels

    log_alphas = [torch.zeros(3, device=DEVICE), torch.zeros(5, device=DEVICE)]
    kernels.sums(log_alphas, [], 0.0)
    before = kernels._made.cache_info()
    log_alphas[0].fill_(1.0)  # by what is there now, not by what was there when the table was made
    assert kernels.sums(log_alphas, [], 0.0)[0].item() == pytest.approx(3 * 0.7310586 + 2.5)
    after = kernels._made.cache_info()
    assert (after.hits, after.misses) == (before.hits + 1, before.misses)
