"""The README compared with the rows, and the order of techniques at equal tuning budget."""

from pathlib import Path

import pytest

from openwork.study.published.comparison import Verdict, sweep, verdict
from openwork.study.published.findings import findings
from openwork.study.published.reconcile import ROUNDINGS, baseline, reconcile
from openwork.study.published.rows import Published, checkpoints, of, read

ROOT = Path(__file__).parents[2]
ROWS = ROOT.parent / "shared" / "published"
needs_rows = pytest.mark.skipif(not ROWS.is_dir(), reason="the published rows are not beside the project")


@pytest.fixture(scope="module")
def rows():
    return read(ROWS)


def vd(sparsity: float, score: float, **settings: float | str) -> Published:
    return Published("resnet50", "variational_dropout", sparsity, score, settings, "", "made up")


def listed(sparsity: float) -> Published:
    (model,) = [r for r in of(checkpoints(), "resnet50", "variational_dropout") if r.sparsity == sparsity]
    return model


def kinds(results: list[Published], sparsity: float) -> list[str]:
    place = "resnet50", "variational_dropout", sparsity
    return [d.kind for d in reconcile(results) if (d.model, d.technique, d.sparsity) == place]


def test_the_dense_means_are_the_paper_s():
    assert baseline("transformer") == pytest.approx(27.29, abs=0.005)
    assert baseline("resnet50") == pytest.approx(76.69, abs=0.005)


def test_a_row_that_says_the_same_is_no_disagreement():
    model = listed(0.9)
    assert kinds([vd(0.9, 73.842, **model.settings)], 0.9) == []


def test_each_kind_of_disagreement_is_found():
    model = listed(0.9)
    other = {**model.settings, "begin": 1.0}
    assert kinds([vd(0.9, 73.9, **model.settings)], 0.9) == ["score"]
    assert kinds([vd(0.9, 73.84, **other)], 0.9) == ["settings"]
    assert kinds([vd(0.902, 73.84, **model.settings)], 0.9) == ["rounded sparsity"]
    assert kinds([vd(0.9, 73.84, **model.settings), vd(0.95, 74, **other)], 0.9) == ["better row"]
    assert kinds([vd(0.5, 73.84, **model.settings)], 0.9) == ["no row"]
    assert kinds([vd(0.9, 70, **other)], 0.9) == ["no row"]


def test_a_printed_figure_with_fewer_digits_is_a_rounding():
    model = listed(0.9)  # 73.842, printed 73.84
    assert kinds([vd(0.9, 73.8, **model.settings)], 0.9) == ["score"]
    assert kinds([vd(0.8984, 73.842, **model.settings)], 0.9) == ["rounded sparsity"]
    (pruned,) = [m for m in of(checkpoints(), "resnet50", "random_pruning") if m.sparsity == 0.98]  # 43.99
    for score, kind in ((43.996, "rounded score"), (43.986, None), (44.01, "score"), (43.9, "score")):
        row = Published("resnet50", "random_pruning", 0.98, score, pruned.settings, "", "made up")
        place = ("resnet50", "random_pruning", 0.98)
        found = [d.kind for d in reconcile([row]) if (d.model, d.technique, d.sparsity) == place]
        assert found == [kind] * (kind is not None), score


def test_file_names_that_say_another_sparsity_are_found_without_rows():
    found = [d for d in reconcile([]) if d.kind == "name"]
    assert [(d.sparsity, d.rows.split("_")[2]) for d in found] == [(0.9, "0.91"), (0.95, "0.96"), (0.965, "0.98")]


def pruned(scores: list[float], sparsity: float = 0.9) -> list[Published]:
    return [
        Published("resnet50", "magnitude_pruning", sparsity, s, {"begin": float(i)}, "", "")
        for i, s in enumerate(scores)
    ]


def test_missing_pruning_runs_are_read_in_two_ways():
    found = sweep(pruned([70.0] * 27), "resnet50", "magnitude_pruning", 0.9)
    assert (len(found.low), found.high) == (54, (70.0,) * 27)
    # the best of two of 54 is 70 unless both are among the 27 that diverged: 27 · 26 / (54 · 53)
    assert found.expected(2) == pytest.approx((70 * (1 - 27 * 26 / (54 * 53)), 70))
    assert found.expected(55) is None


def test_settings_without_a_row_are_read_in_two_ways():
    ours = vd(0.9, 60, coefficient=1.0), vd(0.5, 70, coefficient=2.0)
    found = sweep(ours, "resnet50", "variational_dropout", 0.9)
    assert found.high == (60, 0.0)  # the second stays too dense
    assert found.expected(1) == pytest.approx((60 / 180, 30))


@needs_rows
def test_missing_rows_are_treated_alike(rows):
    names = ("magnitude_pruning", "random_pruning", "variational_dropout")
    found = {name: sweep(rows, "resnet50", name, 0.98) for name in names}
    assert {name: (len(one.low), len(one.high)) for name, one in found.items()} == {
        "magnitude_pruning": (54, 1), "random_pruning": (54, 18), "variational_dropout": (180, 161),
    }  # fmt: skip
    # of magnitude pruning at 98 % the one row with 57.9 % is the best of 20, or one of 54
    assert found["magnitude_pruning"].expected(20) == pytest.approx((57.9 * 20 / 54, 57.9), abs=0.01)


def test_a_verdict_needs_both_readings():
    rows = [*pruned([50.0] * 54), *(vd(0.9, 60, coefficient=float(i)) for i in range(80))]
    # one setting of variational dropout: 60 in one reading, 60 · 80/180 = 26.7 in the other
    names = "magnitude_pruning", "variational_dropout"
    assert verdict(rows, "resnet50", *names, 0.9, 1).answer == "open"
    assert verdict([*pruned([61.0] * 54), *rows[54:]], "resnet50", *names, 0.9, 1).answer == "yes"
    assert verdict([*pruned([26.0] * 54), *rows[54:]], "resnet50", *names, 0.9, 1).answer == "no"
    assert verdict(rows, "resnet50", *names, 0.9, 60).answer == "too few"
    assert verdict(rows[:54], "resnet50", *names, 0.9, 1).answer == "no rows"


def test_a_verdict_whose_interval_over_settings_crosses_zero_has_a_question_mark():
    names = "magnitude_pruning", "variational_dropout"
    alike = [*pruned([50.0, 70.0] * 27), *(vd(0.9, 59.0, coefficient=float(i)) for i in range(180))]
    found = verdict(alike, "resnet50", *names, 0.9, 1)
    # the mean of 54 settings, of standard deviation 10, less 59: 1 with a standard error of 10/√54 = 1.36
    assert (found.answer, found.word, found.crosses) == ("yes", "yes?", True)
    assert found.interval == pytest.approx((1 - 1.96 * 1.36, 1 + 1.96 * 1.36), abs=0.3)  # 2,000 samples
    far = [*pruned([60.0, 80.0] * 27), *alike[54:]]
    assert verdict(far, "resnet50", *names, 0.9, 1).word == "yes"
    assert (Verdict("no", (-1, 0.5)).word, Verdict("no", (-1, -0.5)).word) == ("no?", "no")
    assert (Verdict("open").word, Verdict("open").crosses) == ("open", False)


def test_one_sweep_for_all_levels_spends_its_budget_on_the_others():
    found = sweep(pruned([50.0] * 54), "resnet50", "magnitude_pruning", 0.9, aimed=False)
    assert found.expected(1)[0] == pytest.approx(50 / 6)  # six levels


def test_a_setting_counts_with_its_best_threshold():
    def at(threshold: float, sparsity: float, score: float) -> Published:
        settings = {"coefficient": 1.0, "threshold": threshold}
        return Published("transformer", "variational_dropout", sparsity, score, settings, "", "")

    found = sweep([at(1, 0.95, 10), at(2, 0.91, 20), at(3, 0.8, 25)], "transformer", "variational_dropout", 0.9)
    assert found.high == (20,)


@needs_rows
def test_the_release_s_disagreements_are_these(rows):
    found = [(d.model, d.technique, d.sparsity, d.kind) for d in reconcile(rows)]
    rounded = [kind for *_, kind in found if kind in ROUNDINGS]
    assert (len(found) - len(rounded), rounded.count("rounded sparsity"), rounded.count("rounded score")) == (19, 13, 2)
    assert ("resnet50", "variational_dropout", 0.95, "no row") in found
    assert ("resnet50", "random_pruning", 0.95, "score") in found  # 58.04 and 58.084
    better = [(m, s) for m, t, s, kind in found if kind == "better row" and t == "variational_dropout"]
    assert better == [
        ("transformer", 0.5),
        ("transformer", 0.6),
        ("transformer", 0.7),
        ("resnet50", 0.8),
        ("resnet50", 0.9),
    ]


@needs_rows
def test_the_published_findings_are_those_of_the_document(rows):
    assert (ROOT / "docs" / "published" / "README.md").read_text(encoding="utf-8") == findings(rows)
