"""The Triton kernels for gates beside plain torch: in Triton's interpreter (TRITON_INTERPRET=1), or on a GPU."""

import importlib.util
import os

import pytest
import torch

from openwork.kernels import gates
from openwork.noise import key, keyed, next_draw

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(not INTERPRETED, reason="TRITON_INTERPRET=1 runs these on a CPU; `make test-triton`"),
    pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning"),  # of NumPy; 1 / (1 + inf) is 0
]
CHANNELS_LAST = {"memory_format": torch.channels_last}
CASES = {
    "a number": torch.Size(()),
    "empty": torch.Size((0, 3)),
    "a vector": torch.Size((7,)),
    "a matrix of more than a block": torch.Size((37, 41)),
    "a kernel": torch.Size((3, 5, 2, 3)),
}


def pair(shape, seed=0):
    """A weight, and log alpha with both extremes."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator)
    log_alpha = 3 * torch.randn(shape, generator=generator)
    for place, value in enumerate((80.0, -80.0, 200.0, -200.0)[: log_alpha.numel()]):
        log_alpha.view(-1)[place] = value
    return weight, log_alpha


@pytest.mark.parametrize("last", [False, True], ids=["straight", "channels last"])
@pytest.mark.parametrize("name", CASES)
def test_products_and_their_gradients_are_those_of_plain_torch(name, last):
    from openwork.kernels.triton import gates as kernels

    with keyed(torch.tensor(key(1, 2))):
        draw = next_draw(torch.device("cpu"))
    weight, log_alpha = pair(CASES[name])
    gradient = torch.randn(weight.shape)
    if last:
        if weight.dim() != 4:
            pytest.skip("has no channels")
        weight, log_alpha, gradient = (each.contiguous(**CHANNELS_LAST) for each in (weight, log_alpha, gradient))
    out = kernels.product(weight, log_alpha, *draw, torch.empty_like(weight))
    torch.testing.assert_close(out, gates.plain_product(weight, log_alpha, *draw), rtol=1e-5, atol=1e-6)
    outs = torch.empty_like(weight), torch.empty_like(weight)
    found = kernels.gradients(gradient, weight, log_alpha, *draw, *outs)
    expected = gates.plain_gradients(gradient, weight, log_alpha, *draw)
    for ours, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
        assert ours.stride() == weight.stride()


def test_nan_stays_nan():
    from openwork.kernels.triton import gates as kernels

    draw = next_draw(torch.device("cpu"))
    nan = torch.full((3,), torch.nan)
    assert kernels.product(torch.ones(3), nan, *draw, torch.empty(3)).isnan().all()
