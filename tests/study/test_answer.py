"""What the page says was found: who is best, at which sparsity, how sure that is, or that it is not decided."""

import pytest

from openwork.study.report.answer import answer, compared, how
from openwork.study.report.page import write_report
from openwork.study.results.statistics import summarize
from tests.study.studies import diverged, results, row, study

NOISE = {"A": (0.0, 0.001, 0.002), "B": (0.001, 0.0, 0.002), "C": (0.002, 0.001, 0.0), "dense": (0.0, 0.001, 0.002)}


def points(name: str, accuracies: dict[float, float], seeds: int = 3) -> list[dict]:
    return [row(name, f"s={s}", seed, s, a + NOISE[name][seed]) for s, a in accuracies.items() for seed in range(seeds)]


def said(rows: list[dict], margin: float | None = None) -> str:
    found = results(rows)
    return answer(summarize(found), compared(found, margin))


def test_techniques_at_different_sparsities_are_not_compared():
    # B is more accurate at half the sparsity: that does not make it the best near 90 %.
    assert said([row("A", accuracy=0.8), row("B", sparsity=0.5)]) == (
        "Not decided, as no two techniques were measured at one sparsity of 50, 80, 90, 95 and 98 %: "
        "A has 80.0 % at 90.0 % sparsity (n = 1) and B has 97.0 % at 50.0 % sparsity (n = 1)."
    )


def test_one_technique_is_compared_with_none():
    assert said([row("A", sparsity=0.51, accuracy=0.8)]) == (
        "A is the only technique measured: 80.0 % at 51.0 % sparsity (n = 1)."
    )
    assert said([row("dense", sparsity=0.0)]) == "No sparse run has finished."


def test_the_answer_is_at_90_where_it_is_decided_there():
    rows = [*points("A", {0.9: 0.8, 0.98: 0.7}), *points("B", {0.9: 0.6, 0.98: 0.5}), *points("dense", {0.0: 0.9})]
    # The differences at 90 % are 0.199, 0.201 and 0.2: 20 ± 4.303 · 0.1 / √3.
    assert said(rows) == (
        "At 90 % sparsity A is the most accurate, 80.1 % (95 % interval 79.9–80.3 %, n = 3), +20.00 points "
        "(+19.75 to +20.25) against B; the dense model has 90.1 % (95 % interval 89.9–90.3 %, n = 3)."
    )
    two = [*rows, row("dense", "other", sparsity=0.0, accuracy=0.95)]
    assert said(two).endswith("; the best of 2 dense models has 95.0 % (n = 1).")


def test_the_answer_is_at_the_sparsest_level_where_it_is_decided_if_it_is_not_at_90():
    rows = [*points("A", {0.5: 0.9, 0.9: 0.8, 0.95: 0.7, 0.98: 0.6}), *points("B", {0.5: 0.7, 0.9: 0.8, 0.95: 0.5})]
    assert said(rows).startswith("At 95 % sparsity A is the most accurate, 70.1 %")


def test_the_answer_says_that_nothing_is_decided():
    rows = [*points("A", {0.5: 0.9, 0.9: 0.8}), *points("B", {0.5: 0.9, 0.9: 0.8001})]
    assert said(rows) == (
        "Not decided, as no technique is shown to be better than another: at 90 % sparsity B has the best mean "
        "accuracy, 80.1 % (95 % interval 79.9–80.4 %, n = 3), +0.01 points (−0.24 to +0.26) against A."
    )
    alone = [*points("A", {0.9: 0.8}, 1), *points("B", {0.9: 0.7}, 1)]
    assert said(alone) == (
        "Not decided, as one seed has no spread: at 90 % sparsity A has the best accuracy, 80.0 % (n = 1), +9.90 "
        "points against B."
    )


@pytest.mark.parametrize(("lead", "decided"), [(0.002, False), (0.02, True)])
def test_pairs_by_seed_decide_and_not_whether_two_intervals_overlap(lead, decided):
    # Both means have intervals of ± 25 points; the differences are those of the noise.
    spread = (-0.1, 0.0, 0.1)
    rows = [
        row(name, name, seed, 0.9, 0.8 + own + spread[seed] + NOISE[name][seed])
        for name, own in (("A", 0.0), ("B", lead))
        for seed in range(3)
    ]
    assert said(rows).startswith("At 90 % sparsity B is the most accurate") is decided


def test_a_best_that_is_not_decided_names_whom_it_is_shown_to_beat():
    rows = [*points("A", {0.98: 0.7}), *points("B", {0.98: 0.6995}), *points("C", {0.98: 0.3})]
    assert said(rows) == (
        "Not decided: at 98 % sparsity A has the best mean accuracy, 70.1 % (95 % interval 69.9–70.3 %, n = 3), +0.05 "
        "points (−0.20 to +0.30) against B; A is shown to be better than C."
    )


def test_with_a_margin_two_techniques_are_as_good_as_each_other():
    rows = [*points("A", {0.9: 0.8}), *points("B", {0.9: 0.7995}), *points("C", {0.9: 0.3})]
    text = said(rows, margin=1.0)
    assert text.startswith("At 90 % sparsity A and B are as good as each other within 1.00 points: 80.1 % (")
    assert text.endswith("; A is shown to be better than C.")
    assert "as good" not in said(rows)


def test_the_family_is_every_pair_at_every_level_and_who_is_not_in_it_is_named():
    rows = [*points("A", {0.5: 0.9, 0.9: 0.8}), *points("B", {0.5: 0.9, 0.9: 0.8}), *points("C", {0.9: 0.1, 0.93: 0.1})]
    # A and B at three levels, also read between their points, and at 90 % C with each of them.
    lost = diverged("E")
    found = results([*rows, row("D", sparsity=0.85), lost])
    text = how(found, compared(found, 0.5))
    assert "read at 50, 80 and 90 % sparsity; what is shown has p below 5 % after Holm's correction for all 5 " in text
    assert text.endswith("a difference below 0.50 points, by two one-sided tests. Not compared, as not all of their "
                         "seeds reach one of these: D and E.")  # fmt: skip


def test_techniques_are_paired_by_the_seeds_that_both_have():
    found = compared(results([*points("A", {0.9: 0.8}), *points("B", {0.9: 0.7}, 2), row("C", "c", 7, 0.9, 0.5)]))
    (level,) = found.levels
    assert [
        (one.technique, one.n, one.difference and one.difference.seeds, one.verdict) for one in level.standings
    ] == [
        ("A", 3, None, "reference"),
        ("B", 2, (0, 1), "worse"),
        ("C", 1, None, "undecided"),
    ]


def test_a_best_mean_over_other_seeds_says_who_is_better_by_those_in_common():
    # A has two good seeds more; by seeds 0 to 2, which B has too, it is 3 points worse.
    more = [row("A", "s=0.9", seed, 0.9, 0.99) for seed in (3, 4)]
    a, b = points("A", {0.9: 0.8}), points("B", {0.9: 0.83})
    text = said([*a, *more, *b])
    assert text == (
        "Not decided: at 90 % sparsity A has the best mean accuracy, 87.7 % (95 % interval 68.4–95.9 %, n = 5), −3.00 "
        "points (−3.25 to −2.75) against B by the 3 seeds in common; by the seeds that both have B is shown to be "
        "better than A."
    )
    # C is worse than A, and so is decided; D is not.
    text = said([*a, *more, *b, *points("C", {0.9: 0.3}), row("dense", sparsity=0.0)])
    assert "by the seeds that both have B is shown to be better than A; A is shown to be better than C; the" in text
    text = said([*a, *more, *b, row("D", seed=7, accuracy=0.1)])
    assert text.startswith("Not decided: at 90 % sparsity A has the best mean accuracy")
    assert text.endswith("by the seeds that both have B is shown to be better than A.")


@pytest.mark.parametrize(
    ("seeds", "lead"),
    [(3, " against B; "), (2, " against B by the 2 seeds in common; "), (1, " by the 1 seed in common; ")],
)
def test_a_difference_by_fewer_seeds_than_the_mean_says_by_how_many(seeds, lead):
    text = said([*points("A", {0.9: 0.8}), *points("B", {0.9: 0.7}, seeds), row("dense", sparsity=0.0)])
    assert f"{lead}the dense model" in text


def test_three_techniques_are_as_good_as_the_best_of_them_and_not_as_each_other():
    # B and C are within a point of A, but nobody has asked whether within one of each other.
    rows = [*points("A", {0.9: 0.8}), *points("B", {0.9: 0.7995}), *points("C", {0.9: 0.7995})]
    text = said(rows, margin=1.0)
    assert text.startswith("At 90 % sparsity B and C are as good as A within 1.00 points: it has 80.1 %")


def test_a_seed_of_which_every_run_diverged_leaves_its_technique_out_like_one_that_does_not_reach_the_level():
    # Without seed 2, B would be the most accurate, by the two seeds that it did not lose.
    rows = [*points("A", {0.9: 0.8}), *points("B", {0.9: 0.9}, 2), *points("C", {0.9: 0.7}), diverged("B", "s=0.9", 2)]
    text = said(rows)
    assert text.startswith("At 90 % sparsity A is the most accurate, 80.1 %")
    found = results(rows)
    assert how(found, compared(found)).endswith("not all of their seeds reach one of these: B.")


@pytest.mark.parametrize(
    ("margin", "sentence"),
    [
        (0.0, "margin must be"),
        (-1.0, "margin must be"),
        (100.0, r"margin must be below 100 points of accuracy, got 100; half a point is 0\.5"),
    ],
)
def test_a_margin_that_no_difference_can_reach_is_refused(tmp_path, margin, sentence):
    rows = [*points("A", {0.9: 0.8}), *points("B", {0.9: 0.7})]
    with pytest.raises(ValueError, match=sentence):
        write_report(study(tmp_path, rows), tmp_path / "report", margin=margin)
    assert not (tmp_path / "report").exists()
