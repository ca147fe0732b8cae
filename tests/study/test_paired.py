import math

import numpy as np
import pytest

from openwork.study.evaluation.metric import ACCURACY, BLEU, Metric
from openwork.study.results.paired import paired, paired_results
from tests.study.studies import diverged, results, row

# Hours of sleep gained by ten patients with two drugs: Student 1908, the data set `sleep` of R.
FIRST = dict(enumerate([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]))
SECOND = dict(enumerate([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]))


def test_student_s_sleep_data_give_what_is_published():
    found = paired(SECOND, FIRST)
    assert found.n == 10
    assert found.mean == pytest.approx(1.58)
    assert found.t == pytest.approx(4.0621, abs=5e-5)
    assert found.p == pytest.approx(0.002833, abs=5e-7)
    assert found.interval() == pytest.approx((0.7001142, 2.4598858), abs=5e-8)  # R: t.test(..., paired = TRUE)
    assert str(found) == "+1.58 (+0.7 to +2.46), n = 10, p = 0.00283"


def test_the_other_way_round_only_the_signs_change():
    one, other = paired(SECOND, FIRST), paired(FIRST, SECOND)
    assert other.mean == -one.mean
    assert other.p == one.p
    assert other.interval() == tuple(-end for end in reversed(one.interval()))


def test_the_interval_of_three_differences_by_hand():
    # mean 2, s = 1, t(0.975, 2) = 4.3027
    found = paired({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.0, 1: 0.0, 2: 0.0})
    assert found.interval() == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4)
    assert found.t == pytest.approx(2 * 3**0.5)


def test_seeds_are_paired_by_number_and_not_by_place():
    found = paired({7: 5.0, 2: 3.0}, {2: 1.0, 7: 4.0})
    assert (found.seeds, found.values) == ((2, 7), (2.0, 1.0))


def test_pairing_removes_what_the_runs_of_a_seed_share():
    shared = [0.1, -0.3, 0.25, 0.0]
    ours = {seed: 1.0 + noise + 0.01 * seed for seed, noise in enumerate(shared)}
    found = paired(ours, dict(enumerate(shared)))
    assert found.error == pytest.approx(0.01 * math.sqrt(5 / 3) / 2)  # that of 0, 1, 2, 3 hundredths


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        ({0: 1.0}, {0: 1.0, 2: 1.0, 1: 1.0}, "ours lack seed 1, 2; pair runs of the same seeds"),
        ({0: 1.0, 5: 2.0}, {0: 1.0}, "theirs lack seed 5; pair"),
        ({0: 1.0, 5: 2.0}, {0: 1.0, 4: 1.0}, "ours lack seed 4 and theirs lack seed 5; pair"),
        ({}, {}, "there is no seed to compare"),
        ({0: math.nan}, {0: 1.0}, "the score of seed 0 is nan; give a run that diverged the metric's worst score"),
        ({0: 1.0, 1: 2.0}, {0: 1.0, 1: math.inf}, "the score of seed 1 is inf"),
    ],
)
def test_what_cannot_be_paired_is_named(ours, theirs, message):
    with pytest.raises(ValueError, match=message):
        paired(ours, theirs)


@pytest.mark.parametrize(
    ("metric", "score", "message"),
    [
        (ACCURACY, 97.0, "scores of accuracy are fractions, got 97.0 of seed 1; divide by 100"),
        (BLEU, 17.4, "scores of bleu are fractions, got 17.4 of seed 1; divide by 100"),
    ],
)
def test_percentages_are_no_scores_where_scores_are_fractions(metric, score, message):
    with pytest.raises(ValueError, match=message):
        paired({0: 0.9, 1: score}, {0: 0.9, 1: 0.9}, metric=metric)


def test_one_seed_claims_nothing():
    found = paired({0: 0.9}, {0: 0.8}, metric=ACCURACY)
    assert (found.interval(), found.t, found.p) == (None, None, None)
    assert str(found) == "+10.00, n = 1 (one seed has no spread)"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([0.5, 0.5], [0.5, 0.5]),
        ([0.98, 0.97, 0.96], [0.97, 0.96, 0.95]),  # in floating point three different numbers
        ([9821 / 10_000, 9795 / 10_000], [9820 / 10_000, 9794 / 10_000]),
        ([1e9 + 0.1, 2e9 + 0.1], [1e9, 2e9]),
        ([0.0, 0.0], [0.0, 0.0]),
    ],
)
def test_equal_differences_claim_nothing(ours, theirs):
    found = paired(dict(enumerate(ours)), dict(enumerate(theirs)))
    assert found.equal
    assert (found.interval(), found.p) == (None, None)
    assert found.remark == f"all {len(ours)} differences are equal: no spread was seen"


def test_a_spread_of_one_image_is_a_spread():
    found = paired({0: 0.9821, 1: 0.9795}, {0: 0.9820, 1: 0.9793})
    assert not found.equal
    assert found.p == pytest.approx(2 * 0.10241638, abs=1e-6)  # t = 3; of a Cauchy variable: 1/2 - atan(3) / pi


def test_a_difference_is_written_in_the_metric_s_unit():
    of_accuracy = paired({0: 0.91, 1: 0.93}, {0: 0.90, 1: 0.90}, metric=ACCURACY)
    assert str(of_accuracy) == "+2.00 (-10.71 to +14.71), n = 2, p = 0.295"  # 2 ± 12.706 points
    lower_is_better = Metric("mse", higher_is_better=False)
    of_errors = paired({0: -1.0, 1: -2.0}, {0: -3.0, 1: -3.0}, metric=lower_is_better)
    assert str(of_errors).startswith("-1.5 (-7.85 to +4.85)")  # an error that is lower by 1.5


def test_results_are_paired_by_seed():
    ours = results(row("A", seed=seed, accuracy=0.9 + 0.01 * seed) for seed in (0, 1, 2))
    theirs = results(row("B", seed=seed, accuracy=0.9) for seed in (2, 1, 0))
    found = paired_results(ours, theirs)
    assert (found.metric, found.mean, found.diverged) == (ACCURACY, pytest.approx(0.01), ())


def test_a_run_that_diverged_counts_with_the_worst_score_and_is_named():
    ours = results([row("A", seed=0, accuracy=0.9), diverged("A", seed=1)])
    theirs = results(row("B", seed=seed, accuracy=0.8) for seed in (0, 1))
    found = paired_results(ours, theirs)
    assert found.values == pytest.approx((0.1, -0.8))
    assert found.remark == "a run diverged of seed 1 and counts with the worst score"
    assert "n = 2" in str(found)
    assert found.remark in str(found)


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        ([row("A"), row("A", seed=1)], [row("B")], "theirs lack seed 1"),
        ([row("A", "a"), row("A", "b", seed=1)], [row("B")], "each side must be one setting, got A a, A b"),
        ([row("A"), row("A")], [row("B")], "with seed 0; say in the settings how they differ"),
        ([row("A", task="x")], [row("B", task="y")], r"results of one task can be compared, got \['x', 'y'\]"),
        ([row("A")], [row("B", bleu=20.0)], "is judged by accuracy and run"),
        ([diverged("A")], [diverged("B")], "every run diverged"),
        ([row("A")], [], "there is no result to compare"),
    ],
)
def test_results_that_are_no_pairs_are_refused(ours, theirs, message):
    with pytest.raises(ValueError, match=message):
        paired_results(results(ours), results(theirs))


def test_the_interval_holds_the_true_difference_in_95_of_100_cases():
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(2000):
        seeds = generator.normal(size=5)  # what the two runs of a seed share
        ours, theirs = (dict(enumerate(seeds + generator.normal(mean, 0.3, size=5))) for mean in (0.2, 0.0))
        low, high = paired(ours, theirs).interval()
        held += low <= 0.2 <= high
    # 4 sigma of a share of 2,000: 4 · sqrt(0.95 · 0.05 / 2000)
    assert held / 2000 == pytest.approx(0.95, abs=0.02)
