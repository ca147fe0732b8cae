import pytest
import torch
from torch import nn

import openwork as ow


def weighted(values):
    layer = nn.Linear(len(values), 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([values]))
    return layer


def test_weights_below_q_standard_deviations_go():
    layer = weighted([1.0, -2.0, 3.0, -4.0, 0.5, 1.5])  # std 2.5981 about a mean of 0
    sparsifier = ow.sparsify(layer, ow.PruneRetrain(ow.OneShot(0.5)))
    std = layer.weight.std()
    assert layer.weight.tolist() == [[0.0, -2.0, 3.0, -4.0, 0.0, 1.5]]  # threshold 1.25
    assert sparsifier.sparsity() == pytest.approx(1 / 3)
    assert std > 2.4


def test_what_is_removed_stays_removed_while_q_rises():
    torch.manual_seed(0)
    layer = nn.Linear(50, 40)
    sparsifier = ow.sparsify(layer, ow.PruneRetrain(ow.Linear(1.5, end=30, every=10)))
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    sparsifier.attach(optimizer)
    before = torch.ones_like(layer.weight, dtype=torch.bool)
    found = []
    for _ in range(32):
        layer(torch.randn(8, 50)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        kept = layer.weight != 0
        assert not (kept & ~before).any()
        before = kept
        found.append(sparsifier.sparsity())
    assert found[8] == 0
    assert 0.2 < found[9] < found[19] < found[29] == found[31]


def test_q_may_exceed_one():
    assert ow.PruneRetrain(ow.OneShot(2.0)).schedule.final == 2.0
    with pytest.raises(ValueError, match="did you pass a percentage"):
        ow.GradualMagnitude(ow.OneShot(2.0))


@pytest.mark.parametrize("values", [[0.0] * 6, [0.5] * 6, [0.3]], ids=["zeros", "equal weights", "one weight"])
def test_weights_that_do_not_deviate_stay(values):
    layer = weighted(values)
    ow.sparsify(layer, ow.PruneRetrain(ow.OneShot(0.5)))
    assert layer.weight.tolist() == torch.tensor([values]).tolist()


def test_a_weight_that_is_nan_is_an_error():
    with pytest.raises(RuntimeError, match="are NaN"):
        ow.sparsify(weighted([1.0, torch.nan]), ow.PruneRetrain(ow.OneShot(0.5)))
