import numpy as np
import pytest

from openwork.study.evaluation.metric import ACCURACY, Metric
from openwork.study.results.claims import as_good_as, holm
from openwork.study.results.paired import paired
from tests.study.test_paired import FIRST, SECOND


def differences(*values, metric=None):
    return paired(dict(enumerate(values)), dict.fromkeys(range(len(values)), 0.0), metric=metric)


def test_two_one_sided_tests_of_student_s_sleep_data():
    # t = (1.58 ± 0.5) / 0.38896 with 9 degrees of freedom, as the documents of R's TOSTER have it: 5.348 and 2.777
    found = as_good_as(paired(SECOND, FIRST), 0.5)
    assert found.p_not_worse == pytest.approx(0.000232, abs=5e-6)
    assert found.p_not_better == pytest.approx(0.989, abs=5e-4)
    assert found.p == found.p_not_better
    assert found.interval == pytest.approx((0.867, 2.293), abs=5e-4)
    assert found.not_worse
    assert not found.holds


@pytest.mark.parametrize(("margin", "holds"), [(2.29, False), (2.30, True)])
def test_the_claim_holds_where_the_90_percent_interval_lies_within_the_margin(margin, holds):
    found = as_good_as(paired(SECOND, FIRST), margin)  # up to 2.293
    assert found.holds == holds
    assert found.p < 0.0525


def test_no_significant_difference_is_not_equality():
    found = as_good_as(differences(-1.0, 1.0), 0.5)
    assert found.difference.p == 1.0
    assert not found.holds
    # t = 0.5 with one degree of freedom: 1/2 - atan(1/2) / pi
    assert found.p == pytest.approx(0.35242, abs=1e-5)


@pytest.mark.parametrize("values", [(0.001,), (0.001, 0.001, 0.001), (0.0, 0.0)])
def test_without_a_spread_nothing_is_as_good(values):
    found = as_good_as(differences(*values), 0.5)
    assert (found.p, found.interval, found.holds, found.not_worse) == (None, None, False, False)


@pytest.mark.parametrize("margin", [0, -0.1, float("nan"), float("inf")])
def test_a_margin_is_a_positive_number(margin):
    with pytest.raises(ValueError, match="margin must be a positive difference of scores, got"):
        as_good_as(differences(1.0, 2.0), margin)


def test_a_margin_in_percent_is_refused_where_scores_are_fractions():
    with pytest.raises(ValueError, match="below 1, as scores of accuracy are fractions, got 4; divide by 100"):
        as_good_as(differences(0.1, 0.2, metric=ACCURACY), 4)
    assert as_good_as(differences(0.1, 0.2, metric=Metric("mse")), 4).margin == 4


@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        ([0.01, 0.02, 0.03, 0.04, 0.05], [0.05, 0.08, 0.09, 0.09, 0.09]),  # the example of R's p.adjust
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # 3 · 0.01, 0.04 raised to 2 · 0.03, 2 · 0.03, 4 · 0.005
        ([0.3, 0.6, 0.9], [0.9, 1.0, 1.0]),
        ([0.04], [0.04]),
        ([], []),
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.02, None, 0.9], [0.06, None, 1.0]),  # a test that could not be made counts
        ([0.0, 1.0], [0.0, 1.0]),
    ],
)
def test_holm_s_adjusted_p_by_hand(p, adjusted):
    assert holm(p) == pytest.approx(tuple(adjusted))


def test_holm_s_p_do_not_depend_on_the_order_and_never_fall():
    p = np.random.default_rng(3).uniform(size=12)
    found = holm(list(p))
    assert holm(list(p[::-1])) == found[::-1]
    rising = [found[place] for place in np.argsort(p)]
    assert rising == sorted(rising)
    assert all(adjusted >= raw for adjusted, raw in zip(found, p, strict=True))


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_a_p_outside_0_to_1_is_refused(wrong):
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\], got"):
        holm([0.5, wrong])


def test_at_the_margin_five_percent_of_the_claims_are_wrong():
    generator = np.random.default_rng(2)
    claims = sum(as_good_as(differences(*generator.normal(1.0, 0.4, size=20)), 1.0).holds for _ in range(3000))
    # The other side is 22 standard errors away, so that the level is exact; 4 sigma of a share of 3,000.
    assert claims / 3000 == pytest.approx(0.05, abs=0.016)


def test_too_few_seeds_for_a_margin_show_nothing():
    generator = np.random.default_rng(2)
    claims = sum(as_good_as(differences(*generator.normal(0.0, 1.0, size=3)), 0.3).holds for _ in range(500))
    assert claims / 500 < 0.05


def test_holm_errs_in_five_percent_of_the_families_of_eight_levels():
    generator = np.random.default_rng(4)
    wrong = plain = 0
    for _ in range(1000):
        p = [differences(*values).p for values in generator.normal(size=(8, 6))]
        wrong += min(holm(p)) < 0.05
        plain += min(p) < 0.05
    # Independent levels: 1 - (1 - 0.05 / 8)^8 = 0.0489 with Holm and 1 - 0.95^8 = 0.337 without; 4 sigma of 1,000.
    assert wrong / 1000 == pytest.approx(0.0489, abs=0.028)
    assert plain / 1000 == pytest.approx(0.337, abs=0.06)
