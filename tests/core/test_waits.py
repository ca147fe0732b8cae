"""How often an update reads numbers back from the device; on a GPU each of these is a wait."""

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.core.masks import check, counting, patterns
from openwork.core.masks.threshold import above_threshold

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
    reads, read_back = [], counting.read_back

    def counted(values):
        reads.append(len(values))
        return read_back(values)

    def never(scores, keep, generator):
        raise AssertionError("there are no ties, so the masks are those of one pass")

    with monkeypatch.context() as patch:
        for module in (check, counting):
            patch.setattr(module, "read_back", counted)
        patch.setattr(patterns, "keep_largest", never)
        patch.setattr(patterns.Unstructured, "quick", lambda self, scores, keep: above_threshold(scores, keep))
        model(torch.randn(4, 16)).square().sum().backward()
        optimizer.step()
    return sum(number > 0 for number in reads)


@pytest.mark.parametrize("technique", TECHNIQUES, ids=repr)
def test_the_reads_of_an_update_do_not_grow_with_the_number_of_tensors(technique, monkeypatch):
    few, many = (reads_of_an_update(layers, technique, monkeypatch) for layers in (2, 12))
    assert 1 <= few == many <= 3
