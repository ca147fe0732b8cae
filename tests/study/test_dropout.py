"""Dropout, whose compiled noise is a hash."""

import math

import pytest
import torch

from openwork.study.models.dropout import Dropout, mixed

N = 1_000_000


def compiled(p: float, backend: str = "aot_eager"):
    return torch.compile(Dropout(p), backend=backend, fullgraph=True)


def test_the_hash_is_lowbias32():
    def in_python(x: int) -> int:
        x = (x ^ x >> 16) * 0x7FEB352D % 2**32
        x = (x ^ x >> 15) * 0x846CA68B % 2**32
        return x ^ x >> 16

    values = [0, 1, 2, 12_345, 2**31, 2**32 - 1]
    found = mixed(torch.tensor([v if v < 2**31 else v - 2**32 for v in values], dtype=torch.int32))
    assert [v % 2**32 for v in found.tolist()] == [in_python(v) for v in values]


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
