from dataclasses import dataclass

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.core.masks import allocations

SCORES = {"fc1.weight": torch.tensor([1.0, 2.0, 3.0, 4.0]), "fc2.weight": torch.tensor([10.0, 20.0])}


def test_uniform_keeps_the_same_fraction_everywhere():
    assert ow.Uniform()(SCORES, 0.5, 0.5) == {"fc1.weight": 2, "fc2.weight": 1}


def test_global_ranking_keeps_the_largest_wherever_they_are():
    assert ow.GlobalRanking()(SCORES, 0.5, 0.5) == {"fc1.weight": 1, "fc2.weight": 2}
    assert ow.GlobalRanking()(SCORES, 0.0, 0.5) == {"fc1.weight": 4, "fc2.weight": 2}


def test_global_ranking_is_exact_under_ties():
    ties = {"a": torch.ones(5), "b": torch.ones(5), "c": torch.zeros(5)}
    assert ow.GlobalRanking()(ties, 0.8, 0.8) == {"a": 3, "b": 0, "c": 0}
    assert ow.GlobalRanking()(ties, 0.2, 0.8) == {"a": 5, "b": 5, "c": 2}
    assert ow.GlobalRanking()(ties, 0.99, 0.99) == {"a": 0, "b": 0, "c": 0}


def test_erdos_renyi_kernel_by_hand():
    scores = {"conv": torch.rand(4, 2, 3, 3), "fc": torch.rand(10, 40), "head": torch.rand(2, 3)}
    # 72 + 400 + 6 weights at 0.75 keep 119; shares 12, 50, 5 of 67: head's 8.9 of 6 stays dense, and 113 are shared
    # 12 : 50, which is 21.87 and 91.13; the largest remainder is rounded up
    assert ow.ERK()(scores, 0.75, 0.75) == {"conv": 22, "fc": 91, "head": 6}
    assert ow.ERK()(scores, 0.0, 0.75) == {"conv": 72, "fc": 400, "head": 6}
    assert ow.ERK()(scores, 0.999, 0.999) == {"conv": 0, "fc": 0, "head": 0}


def test_lamp_by_hand():
    # a: squares 1, 4, 9, 16 over 30, 29, 25, 16: .033, .138, .36, 1;  b: 100, 400 over 500, 400: .2, 1
    expected = {0.9: (0, 0), 0.65: (1, 1), 0.5: (2, 1), 0.33: (2, 2), 0.1: (3, 2), 0.0: (4, 2)}
    for sparsity, (a, b) in expected.items():
        assert ow.LAMP()(SCORES, sparsity, 0.9) == {"fc1.weight": a, "fc2.weight": b}, sparsity


def test_lamp_with_zeros_and_ties_is_exact():
    scores = {"a": torch.zeros(10), "b": torch.ones(10), "c": torch.tensor([0.0, 0.0, 2.0])}
    for sparsity in (0.0, 0.3, 0.5, 0.8, 0.95):
        keep = ow.LAMP()(scores, sparsity, 0.95)
        assert sum(keep.values()) == int(23 * (1 - sparsity) + 1e-6)
        assert all(0 <= keep[name] <= score.numel() for name, score in scores.items())


@pytest.mark.parametrize("n", [1, 10_000, 1_000_000])
def test_lamp_top1_has_the_score_one_exactly(n):
    scores = torch.randn(n, generator=torch.Generator().manual_seed(n)).abs()
    assert float(allocations._adapted(scores, 1).max()) == 1.0
    assert ow.LAMP()({"a": scores, "b": 1e-6 * scores}, 1 - 1 / n, 1.0) == {"a": 1, "b": 1}


@pytest.mark.parametrize("factor", [2.0**-40, 1e-3, 7.0])
def test_lamp_top1_and_all_other_counts_do_not_change_when_a_layer_is_scaled(factor):
    torch.manual_seed(0)
    scores = {"a": torch.rand(3000), "b": torch.randn(2000).abs(), "c": torch.rand(100) ** 3}
    scaled = scores | {"b": factor * scores["b"]}
    for sparsity in (0.2, 0.5, 0.9, 0.99):
        assert ow.LAMP()(scaled, sparsity, 0.99) == ow.LAMP()(scores, sparsity, 0.99)


def test_per_layer_targets_follow_the_schedule():
    allocation = ow.PerLayer({"fc2": 0.5})
    assert allocation(SCORES, 0.75, 0.75) == {"fc1.weight": 1, "fc2.weight": 1}
    # half of the way: fc1 at 0.375 keeps 2.5 -> 2, fc2 at 0.25 keeps 1.5 -> 1
    assert allocation(SCORES, 0.375, 0.75) == {"fc1.weight": 2, "fc2.weight": 1}
    assert ow.PerLayer({"fc1.weight": 0.0})(SCORES, 0.75, 0.75) == {"fc1.weight": 4, "fc2.weight": 0}


def test_a_per_layer_target_must_match_one_weight_each():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"'head' matches no selected weight; they are 0.weight"):
        ow.sparsify(model, ow.GradualMagnitude(ow.Cubic(0.9, end=10), allocation=ow.PerLayer({"head": 0.5})))
    with pytest.raises(ValueError, match=r"fc1.weight matches 'fc1' and 'fc\*'; give each weight one target"):
        ow.PerLayer({"fc1": 0.5, "fc*": 0.6})(SCORES, 0.9, 0.9)


def test_allocations_are_values():
    assert ow.PerLayer({"a": 0.5}) == ow.PerLayer((("a", 0.5),))
    assert hash(ow.PerLayer({"a": 0.5})) == hash(ow.PerLayer({"a": 0.5}))
    assert ow.Uniform() != ow.GlobalRanking()


@pytest.mark.parametrize(("allocation", "times"), [(ow.Uniform(), 0), (ow.ERK(), 0), (ow.GlobalRanking(), 1)], ids=str)
def test_scores_are_computed_before_training_only_where_counts_depend_on_them(allocation, times):
    calls = []

    @dataclass(frozen=True)
    class Counted(ow.MaskTechnique):
        def scores(self, view):
            calls.append(view)
            return view.weight.abs()

    ow.sparsify(nn.Linear(4, 4), Counted(ow.OneShot(0.5, at=1), allocation=allocation))
    assert len(calls) == times
