"""What the page of the large half says of the Transformer is what its rows say, computed again by numpy."""

import csv
import importlib
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from openwork.study.published.rows import table as published
from tests.study.study_script import script, words

RESULTS = Path(__file__).parents[2] / "results"
STUDY = RESULTS / "large" / "study"
VD = "variational dropout"
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
script("large")  # whose folder the other modules lie in
chosen, large, shown = map(importlib.import_module, ("large_rows", "large_study", "large_tables"))
layers, reproduced = map(importlib.import_module, ("large_layers", "large_reproduced"))


@pytest.fixture(scope="module")
def rows():
    return [row for row in chosen.read(STUDY) if row["experiment"] == "Transformer"]


@pytest.fixture(scope="module")
def page():
    return words("large")


def figure(values):
    """A mean, and half of its 95 % interval."""
    return f"{np.mean(values):.2f} ± {stats.t.ppf(0.975, len(values) - 1) * stats.sem(values):.2f}"


def older(coefficient, name="VariationalDropout"):
    """BLEU and sparsity of the older rows of a technique with one coefficient; first at the threshold of training."""
    with (RESULTS / "translation" / "rows.csv").open(newline="", encoding="utf-8") as file:
        own = [row for row in csv.DictReader(file) if row["name"] == name]
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
    assert (
        "an older run with 0.03 has 15.2 with 76.7 % zeros (n = 1; the new seed 0, which repeats it, has 14.8)" in page
    )
    score, zeros = max(older(0.03))
    assert (round(score, 1), round(100 * zeros, 1)) == (15.2, 76.7)
    (again,) = [row for row in own if (row["setting"], row["seed"], row["threshold"]) == ("0.03", "0", "0")]
    assert f"{float(again['bleu']):.1f}" == "14.8"
    assert "It is one setting more than L0 has" in page
    assert len(large.WEIGHTS[VD]) == len(large.WEIGHTS["L0"]) + 1
    assert (
        "With the five of the plan it is shown to be worse at all levels but 98 %, with six at 60, 80 and 95 %" in page
    )
    assert "the means are lower at all levels in both" in page
    assert "at 60, 80 and 95 % (n = 3), and with the planned coefficients alone at all but 98 %." in page
    for name, levels in (("", (0.6, 0.8, 0.95)), (", five coefficients", (0.5, 0.6, 0.7, 0.8, 0.9, 0.95))):
        found = [one for one in large.families()[f"Transformer{name}"] if one.label == f"{VD} less magnitude"]
        assert tuple(one.level for one in found if one.p < 0.05) == levels
        assert len(found) == 7
        assert all(one.difference.mean < 0 for one in found)
    findings = " ".join((RESULTS.parent / "docs" / "findings.md").read_text(encoding="utf-8").split())
    assert "with the planned ones alone more of its differences are shown" in findings
    assert "up to 70 % every seed chooses it (n = 3)" in page
    for level in LEVELS:
        taken = {row["setting"] for row in large.runs_at(large.BOTH, VD, level).values()}
        assert (taken == {"0.03"}) == (level <= 0.7), level


def bleu_by_threshold(rows, setting):
    """BLEU of the three seeds of variational dropout; the threshold of training, 3, has none in its column."""
    found = {}
    for row in rows:
        if (row["technique"], row["setting"]) == (VD, setting) and row["threshold"] != "3":
            found.setdefault(row["threshold"] or "3", {})[int(row["seed"])] = float(row["bleu"] or "nan")
    return {threshold: np.array([of[seed] for seed in range(3)]) for threshold, of in found.items()}


def test_thresholds_that_nothing_was_translated_at_have_no_bleu(rows):
    table = shown.TABLES["large, Transformer, settings"]()
    for setting in ("0.03", "0.1", "0.2", "0.5", "1", "3"):
        lines = table.split(f"| {VD} | {setting} | ")[1:5]
        bleu = bleu_by_threshold(rows, setting)
        for threshold, line in zip(("0", "0.5", "1", "3"), lines, strict=True):
            assert line.startswith(f"{threshold} | 3 |")
            cell = line.split(" | ")[4].partition(" |")[0]
            assert cell == ("–" if np.isnan(bleu[threshold]).any() else figure(bleu[threshold])), (setting, threshold)


def test_what_the_page_says_below_the_settings(rows, page):
    wide = [figure(values) for setting in ("1", "3") for values in bleu_by_threshold(rows, setting).values()]
    for mean, half in (map(float, text.split(" ± ")) for text in wide):
        assert half < mean or mean < 1.5
    narrow, bare = bleu_by_threshold(rows, "1"), bleu_by_threshold(rows, "0.03")
    assert [f"{score:.2f}" for score in narrow["0"]] == ["1.01", "0.46", "1.10"]
    assert [f"{score:.2f}" for score in narrow["3"]] == ["2.41", "2.80", "2.80"]
    assert (
        "seed 1 has 0.46 BLEU at threshold 0, the others 1.01 and 1.10, but at threshold 3 it has 2.80, as the" in page
    )
    zeros = {
        threshold: 100 * np.mean([float(row["sparsity"]) for row in rows
                                  if (row["technique"], row["setting"], row["threshold"]) == (VD, "0.03", threshold)])
        for threshold in ("", "0")
    }  # fmt: skip
    assert (
        f"{bare['3'].mean():.2f} BLEU with {zeros['']:.1f} % zeros, {bare['0'].mean():.2f} with {zeros['0']:.1f} %"
        in page
    )


def less(one, other, level):
    """The differences of two techniques by seed."""
    ours, theirs = (large.at(large.BOTH, name, level) for name in (one, other))
    return np.array([ours[seed] - theirs[seed] for seed in range(3)])


def signed(values):
    """Their mean with its interval: ``+1.18 (+0.79 to +1.58)``."""
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    return f"{np.mean(values):+.2f} ({low:+.2f} to {high:+.2f})".replace("-", "−")


def test_what_the_page_says_of_the_spread_of_three_differences(page):
    spreads = {level: np.std(less(VD, "magnitude", level), ddof=1) for level in LEVELS}
    narrow = spreads.pop(0.8)
    said = f"a standard deviation of {narrow:.2f}, those at the other levels {min(spreads.values()):.2f} to"
    assert f"{said} {max(spreads.values()):.2f}." in page


def test_what_no_test_was_planned_for_is_what_the_rows_say(page):
    mean = {
        (name, s): np.mean([*large.at(large.BOTH, name, s).values()]) for name in (VD, "L0", "random") for s in LEVELS
    }
    zeros = {(name, s): f"{100 * large.zeros_at(large.BOTH, name, s):.1f}" for name in (VD, "L0") for s in LEVELS}
    best = importlib.import_module("seeds").best
    paper = {
        (name, s): best("transformer", key, s)
        for name, key in ((VD, "variational_dropout"), ("L0", "l0_regularization"), ("random", "random_pruning"))
        for s in LEVELS
    }
    for level in (0.5, 0.6):
        assert f"{abs(mean[VD, level] - mean['L0', level]):.2f}" == "0.01"
        assert (zeros[VD, level], zeros["L0", level]) == ("65.8", "58.2")
    assert "at 50 and 60 % their means are 0.01 BLEU apart, with 65.8 and 58.2 % zeros" in page
    seven, most = (f"with {zeros[VD, s]} and {zeros['L0', s]} %" for s in (0.7, 0.95))
    first, last = (signed(less(VD, "L0", s)) for s in (0.7, 0.95))
    assert f"At 70 %, {seven}, {VD} has {first}, at 95 %, {most}, {last}." in page
    settings = [f"{weight:g}" for weight in large.PLANNED]
    for level in LEVELS:
        own = large.scores(chosen.of_each_seed(large.rows(), VD, level, settings))
        assert (np.mean([*own.values()]) < mean["L0", level]) == (level <= 0.7)
    assert "With the five coefficients of the plan its means are below those of L0 up to 70 %" in page
    assert [s for s in LEVELS if paper["L0", s] > paper[VD, s]] == [0.5, 0.6, 0.7, 0.95, 0.98]
    assert "In the paper L0 has more than it at 50, 60, 70, 95 and 98 %" in page
    assert "Random pruning has a higher mean than L0 up to 70 %, and than variational dropout at 50 and 60 %" in page
    assert all(mean["random", s] > mean["L0", s] for s in (0.5, 0.6, 0.7))
    assert [s for s in LEVELS if mean["random", s] > mean[VD, s]] == [0.5, 0.6]
    assert "In the paper it has less than both there" in page
    assert all(paper["random", s] < min(paper["L0", s], paper[VD, s]) for s in (0.5, 0.6, 0.7))
    without = {s: [*large.at("Transformer, without dropout", "magnitude", s).values()] for s in (0.5, 0.9, 0.98)}
    texts = {s: figure(scores) for s, scores in without.items()}
    assert (
        f"less BLEU than L0 and variational dropout at 50 %, {texts[0.5]}, and more at 90 %, {texts[0.9]}, and at "
        f"98 %, {texts[0.98]}"
    ) in page
    for level, scores in without.items():
        assert all((np.mean(scores) < mean[name, level]) == (level == 0.5) for name in (VD, "L0"))
    dense = [*large.at("Transformer, without dropout", "dense", 0.0).values()]
    assert f"Without dropout the dense model has {figure(dense)} BLEU, less than magnitude pruning at 90 %" in page
    assert np.mean(dense) < np.mean(without[0.9])
    older = (RESULTS / "translation" / "README.md").read_text(encoding="utf-8")
    assert "at 50 % it then has less BLEU than L0 and variational dropout (n = 3)" in " ".join(older.split())


def test_what_the_page_says_of_regularisation(page):
    assert "magnitude pruning and the dense model are shown to be worse everywhere but at 98 %: there the model" in page
    found = {(one.label, one.level): one for one in large.families()["regularisation"]}
    assert len(found) == 8
    higher = {key for key, one in found.items() if one.p < 0.05 and one.difference.mean > 0}
    lower = {key for key, one in found.items() if one.p < 0.05 and one.difference.mean < 0}
    assert higher == {("without dropout less both", 0.98)}
    assert lower == {key for key in found if key[1] != 0.98}
    assert "Here p at 98 % is close to 5 %, and seed 0 of the runs with both is an older one" in page
    assert 0.045 < found["without dropout less both", 0.98].p < 0.05
    assert "The best magnitude pruning of the paper has dropout up to 70 % and none from 80 % on" in page
    models = [each for each in published("checkpoints")
              if (each["model"], each["technique"]) == ("transformer", "magnitude_pruning")]  # fmt: skip
    assert len(models) == 7
    assert all((float(each["dropout"]) > 0) == (float(each["listed_sparsity"]) <= 0.7) for each in models)


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


def test_the_older_seed_0_beside_what_was_trained_again(rows, page, monkeypatch):
    assert "With that run in place of the older one the same differences are shown" in page
    marks = {(one.label, one.level): shown.verdict(one) for one in large.families()["Transformer"]}
    (again,) = [float(row["bleu"]) for row in large.rows() if row["technique"] == "translation"]
    assert f"{again:.2f}" == "15.82"
    before = large.at
    monkeypatch.setattr(
        large,
        "at",
        lambda *key: before(*key) | ({0: again} if key == (large.BOTH, "magnitude", 0.8) else {}),
    )
    found = large.families.__wrapped__()["Transformer"]
    assert {(one.label, one.level): shown.verdict(one) for one in found} == marks
    assert f"With the run of part A for seed 0 it is {signed(less(VD, 'magnitude', 0.8))}, shown too (n = 3)" in page
    assert marks[f"{VD} less magnitude", 0.8] == "▼"
    monkeypatch.undo()
    pairs = []
    for name, old in (("L0", "L0"), (VD, "VariationalDropout")):
        for weight in chosen.WEIGHTS[name]:
            (new,) = [float(row["bleu"]) for row in rows if (row["technique"], row["setting"], row["seed"],
                      row["threshold"]) == (name, f"{weight:g}", "0", "")]  # fmt: skip
            pairs.append((new, older(weight, old)[0][0]))
    gaps = np.subtract(*zip(*pairs, strict=True))
    said = (
        f"of these {len(gaps)} pairs the new run has more BLEU in {sum(gaps > 0)}, by up to {max(gaps):.2f}, and less"
    )
    assert f"{said} in {sum(gaps < 0)}, by up to {-min(gaps):.2f}." in page


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
