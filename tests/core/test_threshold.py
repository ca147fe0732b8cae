import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import openwork as ow
from openwork.core.masks.threshold import keep_count, keep_largest
from openwork.core.seeding import seeded_generator
from openwork.kernels.select import kth_largest, select_largest
from tests.kernels.select_cases import kth_largest_plain


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_keep_count_truncates_what_the_user_means():
    assert [keep_count(n, s) for n, s in [(100, 0.9), (10, 0.95), (7, 0.5), (5, 0.0), (1000, 0.999)]] == [
        10,
        0,
        3,
        5,
        1,
    ]
    assert keep_count(25_000_000, 0.98) == 500_000


def test_the_largest_are_kept():
    mask = keep_largest(torch.tensor([[3.0, 1.0], [2.0, 5.0]]), 2, generator())
    assert mask.tolist() == [[True, False], [False, True]]


def test_ties_are_drawn_exactly_and_repeatably():
    scores = torch.ones(1000)
    masks = [keep_largest(scores, 300, generator(s)) for s in (0, 0, 1)]
    assert [int(m.sum()) for m in masks] == [300, 300, 300]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    # Drawn over the whole tensor: 300 of 1000 at random leave no third empty (chance under 1e-40).
    assert all(int(part.sum()) > 30 for part in masks[0].chunk(3))


def test_scores_above_a_tie_are_always_kept():
    scores = torch.tensor([1.0, 2.0, 1.0, 1.0, 3.0])
    for seed in range(20):
        mask = keep_largest(scores, 3, generator(seed))
        assert mask[[1, 4]].all()
        assert int(mask.sum()) == 3


def test_minus_infinity_and_nan_are_never_kept():
    scores = torch.tensor([math.nan, 1.0, -math.inf, 2.0])
    assert keep_largest(scores, 3, generator()).tolist() == [False, True, False, True]
    assert keep_largest(scores, 1, generator()).tolist() == [False, False, False, True]


def test_nothing_everything_and_empty():
    assert keep_largest(torch.randn(3, 4), 0, generator()).sum() == 0
    assert keep_largest(torch.randn(3, 4), 12, generator()).all()
    assert keep_largest(torch.zeros(0, 4), 0, generator()).shape == (0, 4)
    with pytest.raises(ValueError, match="cannot keep 5 of 4 scores"):
        keep_largest(torch.randn(4), 5, generator())


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_fast_and_plain_selection_agree(data):
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]))
    values = st.floats(-4, 4, width=16) | st.sampled_from([0.0, 1.0, math.inf, -math.inf])
    tensor = torch.tensor(data.draw(st.lists(values, min_size=1, max_size=60)), dtype=dtype)
    k = data.draw(st.integers(1, len(tensor)))
    assert kth_largest(tensor, k) == kth_largest_plain(tensor, k) == tensor.sort(descending=True).values[k - 1]
    assert kth_largest(tensor, k).dtype == dtype


def test_a_crowd_of_zeros_does_not_change_the_result():
    scores = torch.where(torch.arange(10_000) % 10 == 0, torch.randn(10_000).abs() + 0.1, 0.0)
    for k in (1, 999, 1000, 1001, 9_999):
        assert kth_largest(scores, k) == kth_largest_plain(scores, k)
        assert int(keep_largest(scores, k, generator()).sum()) == k


def test_strides_do_not_matter():
    weight = torch.randn(6, 4, 3, 3).to(memory_format=torch.channels_last)
    expected = np.sort(weight.abs().flatten().numpy())[-50]
    mask = keep_largest(weight.abs(), 50, generator())
    assert torch.equal(mask, weight.abs() >= expected)


def test_seeded_generators_differ_by_seed_step_and_name():
    draws = {
        key: torch.rand((), generator=seeded_generator(*key)).item()
        for key in [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"), (0, 10, "a")]
    }
    assert len(set(draws.values())) == 5
    assert draws[0, 0, "a"] == torch.rand((), generator=seeded_generator(0, 0, "a")).item()


@pytest.mark.parametrize("scores", [[3.0, 1.0, 2.0], [3.0, -math.inf, 2.0], [-math.inf] * 3, []])
def test_the_mask_above_the_threshold_has_the_right_count_only_where_it_is_right(scores):
    scores = torch.tensor(scores)
    for keep in range(len(scores) + 1):
        (quick,), _, numbers = select_largest([scores], [keep])
        assert torch.equal(quick, keep_largest(scores, keep, generator())) or int(quick.sum()) > keep
        assert int(numbers[0, 0]) == int(quick.sum())


@pytest.mark.parametrize("allocation", [ow.Uniform(), ow.GlobalRanking(), ow.PerLayer({"weight": 0.0})], ids=repr)
def test_zeros_that_are_to_stay_do_so_where_all_other_weights_are_kept(allocation):
    layer = torch.nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight[0] = 0
    technique = ow.GradualMagnitude(ow.Linear(0.5, begin=1, end=9, every=1), allocation=allocation)
    sparsifier = ow.sparsify(layer, technique, keep_zeros=True)
    sparsifier.step()  # to a sparsity of 0
    assert sparsifier.masks()["weight"].sum(1).tolist() == [0, 4, 4, 4]
