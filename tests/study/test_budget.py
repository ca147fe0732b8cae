from itertools import combinations
from statistics import fmean

import numpy as np
import pytest

from openwork.study.results.budget import budgets, expected_best, reaching, resampled_best
from openwork.study.results.statistics import summarize, tried
from tests.study.studies import diverged, results, row


def test_the_expected_best_of_two_of_four_by_hand():
    # six pairs: the best is 2 once, 3 twice, 4 three times
    assert expected_best([3, 1, 4, 2], 2) == pytest.approx((2 + 2 * 3 + 3 * 4) / 6)


@pytest.mark.parametrize("n", range(1, 8))
def test_the_expected_best_is_the_mean_over_all_draws(n):
    scores = [0.3, 0.3, 0.0, 0.9, 0.5, 0.0, 0.7]
    assert expected_best(scores, n) == pytest.approx(fmean(max(draw) for draw in combinations(scores, n)))


def test_thousands_of_settings_overflow_nothing():
    # E of the largest of n of 0 … N-1 without replacement is n (N + 1) / (n + 1) - 1
    assert expected_best(range(5000), 2500) == pytest.approx(2500 * 5001 / 2501 - 1)


def test_a_bootstrap_sample_is_the_expected_best_of_that_sample():
    scores = [0.0, 0.0, 3.0, 1.0]
    values, counts = np.unique(scores, return_counts=True)
    drawn = np.random.default_rng(5).multinomial(4, counts / 4, size=50)  # the same samples, written out
    by_hand = [expected_best(np.repeat(values, sample), 2) for sample in drawn]
    assert resampled_best(scores, 2, 50, np.random.default_rng(5)) == pytest.approx(by_hand)


def test_a_budget_beyond_what_was_tried_is_an_error():
    with pytest.raises(ValueError, match="a budget of 2 settings cannot give 3"):
        expected_best([1, 2], 3)


def test_what_diverged_or_stays_too_dense_has_found_nothing():
    assert reaching([(0.9, 5.0), (0.8, 9.0), None, (0.898, 4.0)], 0.9) == [5.0, 0.0, 0.0, 4.0]
    assert reaching([None], 0.9, worst=-1) == [-1]


def test_curves_are_drawn_at_every_small_budget_and_the_whole_one():
    assert budgets(1) == [1]
    assert budgets(4) == [1, 2, 3, 4]
    assert budgets(1000)[:10] == list(range(1, 11))
    assert budgets(1000)[-1] == 1000
    assert len(budgets(1000)) < 40


def test_a_diverged_seed_counts_with_accuracy_zero():
    rows = [row("A", "a", 0, 0.9, 0.6), row("A", "a", 1, 0.9, 0.8), diverged("A", "a", 2), diverged("A", "b", 0)]
    # two of three runs of `a` finished: (0.6 + 0.8 + 0) / 3; none of `b`
    ((first, second),) = tried(summarize(results([*rows, row("dense", sparsity=0.0)]))).values()
    assert first == pytest.approx((0.9, 1.4 / 3))
    assert second is None
