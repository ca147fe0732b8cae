"""What the page of the large half says of the Transformer is what its rows say, computed again by numpy."""

import csv
import importlib
from pathlib import Path

import numpy as np
import pytest

from tests.study.study_script import script

RESULTS = Path(__file__).parents[2] / "results"
STUDY = RESULTS / "large" / "study"
VD = "variational dropout"
script("large")  # whose folder the other modules lie in
chosen, large, shown = map(importlib.import_module, ("large_rows", "large_study", "large_tables"))
layers, reproduced = map(importlib.import_module, ("large_layers", "large_reproduced"))


@pytest.fixture(scope="module")
def rows():
    return [row for row in chosen.read(STUDY) if row["experiment"] == "Transformer"]


@pytest.fixture(scope="module")
def page():
    return " ".join((RESULTS / "large" / "README.md").read_text(encoding="utf-8").split())


def older(coefficient):
    """BLEU and sparsity of the older rows of variational dropout with one coefficient."""
    with (RESULTS / "translation" / "rows.csv").open(newline="", encoding="utf-8") as file:
        own = [row for row in csv.DictReader(file) if row["name"] == "VariationalDropout"]
    return [
        (float(row["after_bleu"]), float(row["sparsity_selected"]))
        for row in own
        if f"final={coefficient / 230_000:.6g}," in row["settings"]
    ]


def test_what_the_page_says_of_the_sixth_coefficient(rows, page):
    own = [row for row in rows if row["technique"] == VD]
    trained = {(row["setting"], row["seed"]) for row in own if not row["threshold"]}
    assert "when 11 of these 15 runs had rows, 0.03 was added, three seeds" in page
    assert [*large.PLANNED] == [0.1, 0.2, 0.5, 1.0, 3.0]
    assert len(trained) == 3 * 6
    assert "All seven runs that were left then were trained" in page
    assert "with 0.1 no model has more than 13.3 BLEU" in page
    least = [float(row["bleu"]) for row in own if row["setting"] == "0.1" and row["bleu"]]
    assert 13.15 < max(least) <= 13.3
    assert "an older run with 0.03, which the new seed 0 repeats, has 15.2 with 76.7 % zeros (n = 1)" in page
    score, zeros = max(older(0.03))
    assert (round(score, 1), round(100 * zeros, 1)) == (15.2, 76.7)
    assert "It is one setting more than L0 has" in page
    assert len(large.WEIGHTS[VD]) == len(large.WEIGHTS["L0"]) + 1
    assert (
        "With the five of the plan it is shown to be worse at all levels but 98 %, with six at 60, 80 and 95 %" in page
    )
    assert "the means are lower at all levels in both" in page
    for name, levels in (("", (0.6, 0.8, 0.95)), (", five coefficients", (0.5, 0.6, 0.7, 0.8, 0.9, 0.95))):
        found = [one for one in large.families()[f"Transformer{name}"] if one.label == f"{VD} less magnitude"]
        assert tuple(one.level for one in found if one.p < 0.05) == levels
        assert len(found) == 7
        assert all(one.difference.mean < 0 for one in found)


def test_thresholds_that_nothing_was_translated_at_have_no_bleu(rows, page):
    lines = page.split("| variational dropout | 0.03 | ")[1:5]
    empty = {}
    for row in rows:
        if (row["technique"], row["setting"]) == (VD, "0.03"):
            empty.setdefault(row["threshold"], []).append(not row["bleu"])
    for threshold, line in zip(("0", "0.5", "1", "3"), lines, strict=True):
        assert line.startswith(f"{threshold} | 3 |")
        assert line.split(" | ")[4].startswith("–") == any(empty[threshold]), threshold


def test_what_the_page_says_of_regularisation(page):
    assert "magnitude pruning and the dense model are shown to be worse but at 98 %: there the model without" in page
    found = {(one.label, one.level): one for one in large.families()["regularisation"]}
    assert len(found) == 8
    higher = {key for key, one in found.items() if one.p < 0.05 and one.difference.mean > 0}
    lower = {key for key, one in found.items() if one.p < 0.05 and one.difference.mean < 0}
    assert higher == {("without dropout less both", 0.98)}
    assert lower == {key for key in found if key[1] != 0.98}


def test_what_the_page_says_of_masks(page):
    assert "So far there is one network of each kind for a mask of the Transformer at 80 and 90 %" in page
    seeds = {}
    for row in large.rows():
        if row["experiment"] == "Transformer, masks" and row["technique"] != "magnitude":
            seeds.setdefault((row["technique"], row["setting"]), []).append(int(row["seed"]))
    assert len(seeds) == 12
    assert all(sorted(own) == [100, 200, 300] for (_, setting), own in seeds.items() if setting != "0.5")
    found = {(one.label, one.level): one for one in large.families()["Transformer, masks"]}
    assert len(found) == 18
    assert "scratch-e is shown to be worse than magnitude pruning, and scratch-b to be better than scratch-e" in page
    tickets = []
    for level in (0.8, 0.9):
        worse, better, ticket = (
            found[label, level]
            for label in ("scratch-e less magnitude", "scratch-b less scratch-e", "lottery ticket less magnitude")
        )
        assert max(worse.p, better.p) < 0.05 < ticket.p
        assert worse.difference.mean < 0 < better.difference.mean
        tickets.append(f"{ticket.difference.mean:.2f}")
    assert f"their means are higher**, by {tickets[0]} and {tickets[1]} BLEU; in the paper they are lower" in page
    published = importlib.import_module("answers").kept_masks()
    assert "joint 24.65; ticket 23.47" in published
    assert "joint 23.26; ticket 21.77" in published


def test_figure_6_has_our_masks_and_the_published_ones():
    values = importlib.import_module("draw_large").masks("Transformer")
    found = {(each["by"], each["kind"], each["sparsity"]): each for each in values}
    ours = list(large.of_masks("Transformer", "lottery ticket", 0.9).values())
    one = found["openwork", "lottery ticket", 90]
    assert [one["lowest"], one["highest"]] == [min(ours), max(ours)]
    assert one["mean"] == pytest.approx(np.mean(ours))
    assert found["published", "magnitude", 90]["mean"] == 23.26
    assert found["published", "lottery ticket", 90]["mean"] == 21.772


def test_sparsities_beside_the_scores_are_those_of_the_chosen_runs(rows):
    (line,) = [line for line in shown.TABLES["large, Transformer, zeros"]().splitlines() if line.startswith("| L0")]
    cells = [cell.strip() for cell in line.split("|")[3:-1]]
    own = [row for row in rows if row["technique"] == "L0"]
    for level, cell in zip((0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98), cells, strict=True):
        zeros = []
        for seed in "012":
            reach = [row for row in own if row["seed"] == seed and 1 - float(row["sparsity"]) <= 1.05 * (1 - level)]
            zeros.append(float(max(reach, key=lambda row: float(row["validation"]))["sparsity"]))
        assert cell == f"{100 * np.mean(zeros):.1f}", level


@pytest.mark.parametrize(("zeros", "level", "expected"), [(0.9, 0.9, False), (0.904, 0.9, False), (0.91, 0.9, True),
                                                          (0.874, 0.8, True), (0.79, 0.8, False)])  # fmt: skip
def test_sparser_than_a_level_is_what_leaves_less_than_the_slack(zeros, level, expected):
    assert large.is_sparser(zeros, level) is expected


def test_readme_names_the_sparsity_of_runs_that_are_sparser():
    some, most = [line[2] for line in shown.shortly() if line[0].startswith("a small Transformer")]
    assert "L0 13.85" in some
    assert "L0 (95.9 % zeros) 6.54" in most
    assert "random pruning 3.04" in most


def test_figure_2_shows_models_alike_and_what_the_page_says_of_them(rows, page):
    found = layers.alike()
    zeros = {name: [float(row["sparsity"]) for row in cell.values()] for name, cell in found.items()}
    scores = {name: np.mean([float(row["bleu"]) for row in cell.values()]) for name, cell in found.items()}
    assert [len(cell) for cell in found.values()] == [3, 3]
    assert np.abs(np.subtract(zeros[VD], zeros["L0"])).max() < 0.02
    assert abs(scores[VD] - scores["L0"]) < 0.5
    for seed, one in found[VD].items():
        target = float(found["L0"][seed]["validation"])
        near = [
            abs(float(row["validation"]) - target)
            for row in rows
            if row["technique"] == VD and row["bleu"] and int(row["seed"]) == seed
            and abs(float(row["sparsity"]) - float(found["L0"][seed]["sparsity"])) < 0.02
        ]  # fmt: skip
        assert abs(float(one["validation"]) - target) == min(near)
    by = {}
    for each in layers.kinds():
        by.setdefault(each["technique"], {})[each["kind"]] = each["sparsity"]
    assert "Both remove the most of the feed-forward layers" in page
    assert all(max(own, key=own.get) == "feed-forward" for own in by.values())
    assert "Variational dropout keeps the most of the embedding" in page
    assert min(by[VD], key=by[VD].get) == "embedding"
    assert "removes more of queries and values than of keys; L0 keeps the most of values" in page
    assert min(by[VD]["queries"], by[VD]["values"]) > by[VD]["keys"]
    assert (
        "with the coefficient 0.1 and threshold 0.5, 89.7 % and 12.6 BLEU, variational dropout removes less of" in page
    )
    other = [row for row in rows if (row["technique"], row["setting"], row["threshold"]) == (VD, "0.1", "0.5")]
    assert round(100 * np.mean([float(row["sparsity"]) for row in other]), 1) == 89.7
    assert round(np.mean([float(row["bleu"]) for row in other]), 1) == 12.6
    means = np.mean([[*map(float, row["layers"].split())] for row in other], axis=0)
    kinds = {
        kind: np.mean([zeros for name, zeros in zip(layers.layer_names("translation"), means, strict=True)
                       if kind in name.split(".")])
        for kind in ("value", "key")
    }  # fmt: skip
    assert kinds["value"] < kinds["key"]
    assert min(by["L0"], key=by["L0"].get) == "values"


def test_the_published_differences_are_those_of_the_rows():
    lines = {line[0]: line for line in reproduced._learned()}
    assert lines["— L0 beside it (figure 1)"][1] == "above it by 0.39, 0.22, 0.08 and 0.46 at 50, 60, 70 and 98 %"
    (line,) = reproduced._kinds()
    assert f"{VD} removes more of feed-forward than of one of these two" in line[-1]
    assert "L0 removes more of embedding, outputs of attention and feed-forward than" in line[-1]


def test_what_the_page_says_of_seed_0(page):
    assert "has the highest BLEU of the three dense and with magnitude pruning at all levels but 95 %" in page
    cells = {level: large.at(large.BOTH, "magnitude", level) for level in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)}
    cells[0.0] = large.at(large.BOTH, "dense", 0.0)
    assert [level for level, found in cells.items() if max(found, key=found.get) != 0] == [0.95]
    assert "at 80 %, with 15.82 BLEU instead of 16.08; the other two seeds have 15.75 there" in page
    assert [f"{score:.2f}" for score in cells[0.8].values()] == ["16.08", "15.75", "15.75"]
    assert "| 16.08 | 15.82 |" in page


def test_with_more_zeros_is_said_where_the_runs_have_more():
    lines = importlib.import_module("answers").leads().splitlines()
    (one,) = [line for line in lines if line.startswith("| Transformer, BLEU at 90 %")]
    assert "L0 less magnitude: yes: lower, with more zeros" in one
    (one,) = [line for line in lines if line.startswith("| ResNet-50, accuracy at 98 %")]
    assert "random less magnitude: yes: lower;" in one


@pytest.mark.parametrize(
    ("p", "text"), [(0.05046, "0.0505"), (0.04951, "0.0495"), (0.0512, "0.051"), (0.0004, "< 0.001")]
)
def test_a_p_value_near_5_percent_has_a_digit_more(p, text):
    assert importlib.import_module("played").probability(p) == text
