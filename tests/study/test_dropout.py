"""Dropout, whose compiled noise is a hash."""

import math

import pytest
import torch
from torch.func import vmap

from openwork.noise import key, keyed, keys
from openwork.study.models.dropout import Dropout, dropout

N = 1_000_000


def compiled(p: float, backend: str = "aot_eager"):
    return torch.compile(Dropout(p), backend=backend, fullgraph=True)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_units_are_dropped_independently_with_probability_p(backend, p):
    torch.manual_seed(0)
    dropout = compiled(p, backend)
    masks = torch.stack([dropout(torch.ones(N)) for _ in range(2)])
    assert masks.unique().tolist() == pytest.approx([0, 1 / (1 - p)])
    dropped = (masks == 0).double()
    spread = math.sqrt(p * (1 - p) / N)
    assert dropped.mean(1).tolist() == pytest.approx([p, p], abs=4 * spread)
    centred = (dropped - p) / math.sqrt(p * (1 - p))
    neighbours = [(centred[0, :-lag] * centred[0, lag:]).mean().item() for lag in (1, 2, 64, 4096)]
    assert [(centred[0] * centred[1]).mean().item(), *neighbours] == pytest.approx([0] * 5, abs=4 / math.sqrt(N))


def test_the_gradient_has_the_zeros_of_the_output():
    x = torch.ones(1000, requires_grad=True)
    y = compiled(0.3)(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_the_seed_decides():
    dropout = compiled(0.5)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(dropout(torch.ones(100)))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_otherwise_it_is_torchs():
    x = torch.randn(1000)
    torch.manual_seed(0)
    expected = torch.nn.functional.dropout(x, 0.3)
    torch.manual_seed(0)
    assert torch.equal(Dropout(0.3)(x), expected)
    evaluated = torch.compile(Dropout(0.3).eval(), backend="aot_eager")
    assert torch.equal(evaluated(x), x)
    assert torch.equal(compiled(0.0)(x), x)


KEYS = keys(torch.arange(4), 0)


def keyed_dropout(key, x):
    with keyed(key):
        return torch.stack([dropout(x, 0.3, True), Dropout(0.3)(x)])


def test_by_a_key_the_nth_dropout_of_a_forward_has_noise_of_its_own_alone_stacked_and_compiled():
    x = torch.ones(1000, 3)
    alone = torch.stack([keyed_dropout(each, x) for each in KEYS])
    dropped = (alone == 0).double()
    assert dropped.mean().item() == pytest.approx(0.3, abs=6 * math.sqrt(0.21 / dropped.numel()))
    masks = dropped.flatten(2).flatten(0, 1) - 0.3
    assert (masks @ masks.T / masks.shape[1] - 0.21 * torch.eye(8)).abs().max() < 6 * 0.21 / math.sqrt(3000)
    assert alone.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert torch.equal(vmap(keyed_dropout, in_dims=(0, None))(KEYS, x), alone)
    compiled = torch.compile(keyed_dropout, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(KEYS[2], x), alone[2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_by_a_key_the_probability_does_not_depend_on_the_dtype(dtype):
    with keyed(torch.tensor(key(0, 0))):
        found = dropout(torch.ones(N, dtype=dtype), 0.001, True)
    assert found.dtype == dtype
    assert (found == 0).double().mean().item() == pytest.approx(0.001, abs=6 * math.sqrt(0.001 / N))
    with keyed(torch.tensor(key(0, 0))):
        assert torch.equal(dropout(torch.ones(N, dtype=dtype), 0.001, False), torch.ones(N, dtype=dtype))
