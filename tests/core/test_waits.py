"""How often an update reads numbers back from the device; on a GPU each of these is a wait."""

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.core.masks import allocations, check, counting, criterion, threshold

PRUNE = ow.Cubic(0.8, begin=1, end=9, every=1)
EXCHANGE = ow.Constant(0.8, every=1, stop=9)
TECHNIQUES = [
    ow.GradualMagnitude(PRUNE),
    ow.GradualMagnitude(PRUNE, allocation=ow.GlobalRanking()),
    ow.RandomPruning(PRUNE),
    ow.SNIP(PRUNE),
    ow.RigL(EXCHANGE),
    ow.SET(EXCHANGE),
]


def reads_of_an_update(layers, technique, monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(layers)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ow.sparsify(model, technique).attach(optimizer)
    model(torch.randn(4, 16)).square().sum().backward()
    optimizer.step()
    reads = []

    def counted(read):
        def reading(values):
            reads.append(len(values))
            return read(values)

        return reading

    def never(*arguments):
        raise AssertionError("there are no ties, so the masks are those of one pass")

    with monkeypatch.context() as patch:
        for name in ("read_back", "read_tables"):
            read = counted(getattr(counting, name))
            for module in (allocations, check, counting, criterion, threshold):
                if hasattr(module, name):
                    patch.setattr(module, name, read)
        patch.setattr(threshold, "_without", never)
        model(torch.randn(4, 16)).square().sum().backward()
        optimizer.step()
    return sum(number > 0 for number in reads)


@pytest.mark.parametrize("technique", TECHNIQUES, ids=repr)
def test_the_reads_of_an_update_do_not_grow_with_the_number_of_tensors(technique, monkeypatch):
    few, many = (reads_of_an_update(layers, technique, monkeypatch) for layers in (2, 12))
    assert 1 <= few == many <= 3
