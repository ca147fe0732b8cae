import pytest
import torch

import openwork as ow

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
