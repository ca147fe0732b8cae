"""What the page says was found."""

import pytest

from openwork.study.report.page import _takeaway
from openwork.study.results.statistics import summarize
from tests.study.studies import results, row


def points(name: str, accuracies: dict[float, float]) -> list[dict]:
    return [row(name, f"s={s}", seed, s, a + 0.001 * seed) for s, a in accuracies.items() for seed in range(3)]


def test_the_takeaway_compares_only_points_near_one_sparsity():
    # B is more accurate at half the sparsity: that does not make it the best near 90 %.
    text = _takeaway(summarize(results([row("A", accuracy=0.8), row("B", sparsity=0.5)])))
    assert "Near 90 % sparsity, A is the only technique measured: 80.0 % at 90.0 % sparsity (1 seed, " in text


def test_the_takeaway_says_where_it_compares_if_not_near_90():
    rows = [row("A", sparsity=0.5, accuracy=0.8), row("B", sparsity=0.51, accuracy=0.9)]
    assert "Near 51 % sparsity, B is the most accurate: 90.0 % at 51.0 % sparsity" in _takeaway(
        summarize(results(rows))
    )
    assert _takeaway(summarize(results([row("dense", sparsity=0.0)]))) == "No sparse run has finished."


def test_the_takeaway_is_at_the_sparsest_level_where_the_best_differ_if_they_do_not_near_90():
    rows = [*points("A", {0.5: 0.9, 0.9: 0.8, 0.95: 0.7, 0.98: 0.6}), *points("B", {0.5: 0.9, 0.9: 0.8, 0.95: 0.5})]
    text = _takeaway(summarize(results(rows)))
    assert text.startswith(
        "Near 95 % sparsity, A is the most accurate: 70.1 % at 95.0 % sparsity (3 seeds, 95 % interval"
    )
    assert text.endswith("next is B with 50.1 % at 95.0 %, and the two intervals do not overlap.")


def test_the_takeaway_stays_near_90_where_the_best_differ_nowhere():
    rows = [*points("A", {0.5: 0.9, 0.9: 0.8}), *points("B", {0.5: 0.9, 0.9: 0.8})]
    assert _takeaway(summarize(results(rows))).startswith("Near 90 % sparsity, ")


@pytest.mark.parametrize(("lead", "verdict"), [(0.02, "overlap"), (0.06, "do not overlap")])
def test_the_takeaway_says_whether_the_intervals_overlap(lead, verdict):
    # s = 0.01 over 3 seeds: ± 4.303 · 0.01 / √3 = 0.0248 around each mean.
    rows = [row(n, n, s, 0.9, 0.8 + d + 0.01 * s) for n, d in (("A", 0.0), ("B", lead)) for s in range(3)]
    assert _takeaway(summarize(results(rows))).endswith(
        f"next is A with 81.0 % at 90.0 %, and the two intervals {verdict}."
    )


def test_where_the_two_best_differ_nowhere_the_takeaway_names_who_is_apart_from_the_best():
    rows = [
        *points("A", {0.9: 0.8, 0.98: 0.7}),
        *points("B", {0.9: 0.801, 0.98: 0.699}),
        *points("C", {0.9: 0.8, 0.98: 0.3}),
    ]
    text = _takeaway(summarize(results(rows)))
    assert text.startswith("Near 98 % sparsity, A is the most accurate on average: 70.1 % at 98.0 % sparsity (3 seeds")
    assert text.endswith(
        "next is B with 70.0 % at 98.0 %, and the two intervals overlap; the first whose interval lies apart is C with "
        "30.1 % at 98.0 %."
    )
