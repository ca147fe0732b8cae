"""What results/large says is what its rows say, computed again by SciPy; choices never see a test figure."""

import csv
import importlib
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from openwork.study.experiments import large_probes, large_resnet50, large_transformer
from openwork.study.experiments.cifar10_resnet import SPARSITIES
from tests.study.study_claims import holm
from tests.study.study_script import driver, script, words

RESULTS = Path(__file__).parents[2] / "results"
STUDY = RESULTS / "large" / "study"
VD = "variational dropout"
script("large")  # whose folder the other modules lie in
plan, chosen, large = map(importlib.import_module, ("large_plan", "large_rows", "large_study"))
shown, failures, answers = map(importlib.import_module, ("large_tables", "large_failures", "answers"))


def row(experiment, technique, setting, seed, **measured):
    """A row as the script writes it; the threshold is that of the training."""
    empty = dict.fromkeys(plan.COLUMNS, "")
    key = {"experiment": experiment, "technique": technique, "setting": setting, "seed": str(seed), "threshold": ""}
    return key | empty | {"status": "finished"} | {name: str(value) for name, value in measured.items()}


def write(folder, rows):
    file = driver().Rows(folder / "rows.csv", chosen.KEY, plan.COLUMNS)
    file.add({tuple(each[name] for name in chosen.KEY): {name: each[name] for name in plan.COLUMNS} for each in rows})


def resnets(random):
    """Three seeds of part B: variational dropout is clearly better at 95 %, and random pruning a little worse."""
    rows, common = [], random.normal(0.85, 0.005, 3)
    for level in SPARSITIES:
        for name, shift in (("magnitude", 0.0), ("random", -0.002)):
            scores = common + shift + random.normal(0, 0.0005, 3)
            rows += [
                row("ResNet-50, 20 epochs", name, f"{level:g}", seed, sparsity=level, accuracy=round(score, 4),
                    validation=round(score, 4))
                for seed, score in enumerate(scores)
            ]  # fmt: skip
    for weight, zeros, shift, validation in (("0.05", 0.951, 0.05, 0.90), ("0.3", 0.96, 0.01, 0.80)):
        rows += [
            row(
                "ResNet-50, 20 epochs",
                VD,
                weight,
                seed,
                sparsity=zeros,
                accuracy=round(score, 4),
                validation=validation,
            )
            for seed, score in enumerate(common + shift + random.normal(0, 0.0005, 3))
        ]
    return rows


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """All tables by what has rows: nothing, three seeds, two of them, and three of which one has diverged."""
    folder, found, before = tmp_path_factory.mktemp("rows"), {}, large.STUDY
    rows = resnets(np.random.default_rng(0))
    lost = [
        each | {"status": "diverged", "accuracy": "", "sparsity": "", "validation": ""}
        if (each["technique"], each["setting"], each["seed"]) == ("random", "0.98", "0")
        else each
        for each in rows
    ]
    kinds = {"none": [], "three": rows, "two": [each for each in rows if each["seed"] != "2"], "diverged": lost}
    for name, own in kinds.items():
        (folder / name).mkdir()
        write(folder / name, own)
        found[name] = tables(folder / name)
    tables(before)
    return found


def tables(study):
    """The tables of the rows in a folder."""
    large.STUDY = study
    large.rows.cache_clear()
    large.families.cache_clear()
    return {name: table() for name, table in {**shown.TABLES, **failures.TABLES, **answers.TABLES}.items()}


def test_without_rows_every_table_says_which_part_comes_next(made):
    for name, text in made["none"].items():
        if name.startswith("large"):
            assert text.startswith("Not enough runs yet of part") or "| A | again | 4 | 0 |" in text, name
        else:
            assert "not decided yet: not run" in text or "not decided yet: fewer" in text, name


def test_differences_marks_and_equivalence_are_those_of_scipy(made):
    rows, found = resnets(np.random.default_rng(0)), made["three"]
    scores = {}
    for each in rows:
        if each["technique"] != VD or each["setting"] == "0.05":  # which validation prefers
            scores.setdefault((each["technique"], each["setting"]), []).append(100 * float(each["accuracy"]))
    p, same = {}, {}
    for name, level in [(VD, 0.95), *(("random", level) for level in SPARSITIES)]:
        ours = np.array(scores[name, "0.05" if name == VD else f"{level:g}"])
        difference = ours - np.array(scores["magnitude", f"{level:g}"])
        p[name, level] = stats.ttest_1samp(difference, 0).pvalue
        tests = [
            stats.ttest_1samp(difference, -0.5, alternative="greater"),
            stats.ttest_1samp(difference, 0.5, alternative="less"),
        ]
        same[name, level] = max(each.pvalue for each in tests)
    # Levels up to 95 % are reached by 95.1 % of zeros, too.
    for level in SPARSITIES[:3]:
        ours = np.array(scores[VD, "0.05"]) - np.array(scores["magnitude", f"{level:g}"])
        p[VD, level] = stats.ttest_1samp(ours, 0).pvalue
        same[VD, level] = 1.0
    missing = {(VD, 0.98): 1.0}
    p, same = holm(p | missing), holm(same | missing)
    (line,) = [line for line in found["large, ResNet-50, compared"].splitlines() if line.startswith(f"| {VD}")]
    cells = [cell.strip() for cell in line.split("|")[3:-1]]
    assert cells[-1] == "–"
    ours = np.array(scores[VD, "0.05"]) - np.array(scores["magnitude", "0.95"])
    low, high = stats.t.interval(0.95, 2, ours.mean(), stats.sem(ours))
    mark = " ▲" if p[VD, 0.95] < 0.05 else ""
    assert mark
    probability = "< 0.001" if p[VD, 0.95] < 0.001 else f"{p[VD, 0.95]:.3f}"
    assert cells[3] == f"{ours.mean():+.2f} ({low:+.2f} to {high:+.2f}), p {probability}{mark}"
    (line,) = [line for line in found["large, ResNet-50, compared"].splitlines() if line.startswith("| random")]
    for cell, level in zip(line.split("|")[3:-1], SPARSITIES, strict=True):
        shown = "▼" if p["random", level] < 0.05 else "≈" if same["random", level] < 0.05 else ""
        assert cell.strip().endswith(shown or tuple("0123456789")), level
    (line,) = [
        line for line in found["answers, techniques"].splitlines() if line.startswith("| ResNet-50, accuracy at 95")
    ]
    assert f"{VD} less magnitude: yes: higher" in line
    assert "not decided yet" not in line


def test_a_cell_with_two_seeds_has_no_place(made):
    assert made["two"]["large, ResNet-50"].startswith("Not enough runs yet")


def test_seeds_without_a_partner_are_counted(made, tmp_path):
    rows = resnets(np.random.default_rng(0))
    more = [each | {"seed": str(seed)} for each in rows for seed in (3, 4)
            if (each["technique"], each["setting"], each["seed"]) == ("magnitude", "0.9", "0")]  # fmt: skip
    before = large.STUDY
    write(tmp_path, [*rows, *more])
    found = tables(tmp_path)
    tables(before)
    (line,) = [each for each in found["large, ResNet-50"].splitlines() if each.startswith("| magnitude")]
    assert line.split("|")[2].strip() == "3 or 5"
    (line,) = [each for each in found["large, ResNet-50, compared"].splitlines() if each.startswith("| random")]
    assert line.split("|")[2].strip() == "3; up to 2 without a partner"


def test_a_run_that_diverged_counts_with_chance(made):
    (line,) = [line for line in made["diverged"]["large, ResNet-50"].splitlines() if line.startswith("| random")]
    kept = [
        100 * float(each["accuracy"])
        for each in resnets(np.random.default_rng(0))
        if (each["technique"], each["setting"]) == ("random", "0.98") and each["seed"] != "0"
    ]
    assert f"| {(10 + sum(kept)) / 3:.2f} ± " in line


@pytest.mark.parametrize(("level", "expected"), [(0.5, "0.05"), (0.95, "0.05"), (0.958, "0.3"), (0.97, None)])
def test_a_coefficient_is_chosen_by_validation_among_those_that_reach_the_level(level, expected):
    cell = chosen.at_level(resnets(np.random.default_rng(0)), "ResNet-50, 20 epochs", VD, level)
    assert {each["setting"] for each in cell.values()} == ({expected} if expected else set())


def test_each_seed_of_the_transformer_chooses_by_its_own_validation():
    rows = []
    for seed in range(3):
        for setting, zeros, validation, bleu in (("1", 0.9, 0.5 + 0.11 * seed, 10), ("3", 0.95, 0.6, 5)):
            rows.append(row("Transformer", VD, setting, seed, sparsity=zeros, validation=validation, bleu=bleu))
        rows.append(row("Transformer", VD, "2", seed, sparsity=0.99, validation=0.99))  # nothing was translated
    tried = ("1", "3", "2")
    found = chosen.of_each_seed(rows, VD, 0.9, tried)
    assert [found[seed]["setting"] for seed in range(3)] == ["3", "1", "1"]
    assert chosen.of_each_seed(rows, VD, 0.98, tried) == {}
    assert chosen.of_each_seed(rows[:-3], VD, 0.9, tried) == {}  # two seeds


def test_nothing_is_chosen_before_every_coefficient_has_its_seeds():
    rows = [row("Transformer", "L0", setting, seed, sparsity=0.9, validation=0.5, bleu=10)
            for setting in ("1", "2") for seed in range(3)]  # fmt: skip
    assert len(chosen.of_each_seed(rows, "L0", 0.8, ("1", "2"))) == 3
    assert chosen.of_each_seed(rows, "L0", 0.8, ("1", "2", "5")) == {}
    assert chosen.of_each_seed(rows[:-1], "L0", 0.8, ("1", "2")) == {}


def test_translations_are_counted_where_no_other_threshold_is_better():
    points = {0.0: (0.9, 0.5), 1.0: (0.8, 0.6), 2.0: (0.7, 0.55), 3.0: (0.8, 0.6), 4.0: (0.6, 0.7)}
    assert chosen.unbeaten(points) == [0.0, 1.0, 3.0, 4.0]


def test_pilots_choose_when_all_are_there_and_none_by_its_test_figures():
    def pilots(zeros):
        return [
            row("ResNet-50, 40 epochs, pilots", VD, setting, 1000, sparsity=s, validation=v, accuracy=1 - v)
            for (setting, v), s in zip(
                [("-10/1", 0.7), ("-10/5", 0.6), ("-15/1", 0.8), ("-15/5", 0.5)], zeros, strict=True
            )
        ]

    assert chosen.chosen_beyond(pilots([0.98, 0.99, 0.9, 0.979])) == [(VD, "-10/1")]
    assert chosen.chosen_beyond(pilots([0.9, 0.95, 0.9, 0.94])) == [(VD, "-10/5")]  # the sparsest
    assert chosen.chosen_beyond(pilots([0.98] * 4)[:3]) == []
    gates = [
        row("ResNet-50, L0, pilots", "L0", f"{n}", 1000, sparsity=n / 12, recalibrated=1 - n / 100) for n in range(12)
    ]
    assert chosen.chosen_gates(gates) == ["6", "10", "11"]
    assert chosen.chosen_gates(gates[:11]) == []
    dense = [row("VGG-like", "dense", "200 epochs", seed, validation=0.879 + seed / 1000) for seed in range(3)]
    assert [chosen.passes(dense[:2]), chosen.passes(dense)] == [None, True]
    dense[2]["validation"] = "0.87"
    assert chosen.passes(dense) is False


def test_the_pieces_are_in_the_order_of_the_plan_and_fit_into_a_call(tmp_path):
    pieces = plan.pieces(tmp_path)
    letters = [letter for letter, _ in pieces]
    assert letters == sorted(letters, key=plan.PARTS.index)
    assert set(letters) == set(plan.PARTS)
    for letter, piece in pieces:
        if letter not in "AK":  # K's runs are longer than a call, and go on where they were
            assert piece.seconds(piece.runs().values()) < 600, letter


def test_no_run_is_in_two_pieces(tmp_path):
    keys = [key for letter, piece in plan.pieces(tmp_path) if letter != "A" for key in piece.runs()]
    masks = [key for key in keys if key[1] == "magnitude" and "masks" in key[0]]
    assert len(keys) - len(set(keys)) == len(masks) * 3 // 4  # each mask is in four pieces, and trained once


@pytest.mark.skipif(not (STUDY / "rows.csv").exists(), reason="no rows yet")
def test_the_id_of_a_row_is_that_of_the_run_that_its_key_names(monkeypatch):
    for module in (large_resnet50, large_probes):
        monkeypatch.setattr(module, "only_jpeg", lambda: True)  # as on the machine that made the rows
    with (STUDY / "rows.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    runs = {key[:4]: each for _, piece in plan.pieces(STUDY) for key, each in piece.runs().items()}
    for each in rows:
        key = (each["experiment"], each["technique"], each["setting"], int(each["seed"]))
        assert each["id"].partition("@")[0] == runs[key].id, key


def test_what_the_page_says_of_variational_dropout_is_what_the_rows_say():
    page = (RESULTS / "large" / "README.md").read_text(encoding="utf-8")
    assert "does not reach 95 % in 20\nepochs with any of its five coefficients" in page
    assert "takes the same runs for 80 and 90 %" in page
    rows = chosen.read(STUDY)
    cells = chosen.cells(rows, large.SHORT)
    own = {setting: cell for (name, setting), cell in cells.items() if name == VD}
    assert {len(cell) for cell in own.values()} == {3}
    assert len(own) == 5
    taken = {level: chosen.at_level(rows, large.SHORT, VD, level) for level in (0.8, 0.9, 0.95, 0.98)}
    assert taken[0.8] == taken[0.9] != {}
    assert taken[0.95] == taken[0.98] == {}


def test_what_is_left_is_what_the_plan_has_and_the_rows_have_not():
    have = [tuple(row[name] for name in chosen.KEY) for row in chosen.read(STUDY)]
    progress = plan.progress(STUDY)
    assert sum(done for _, _, done in progress.values()) == sum(not key[4] for key in have)
    (experiments, planned, done) = progress["F"]
    assert (experiments, planned) == (["Transformer"], 63)
    assert done == sum(key[0] == "Transformer" and not key[4] for key in have)
    assert [planned for _, planned, _ in progress.values()][:3] == [4, 48, 45]  # as the plan's table has it
    assert (progress["H"][1], progress["I"][1]) == (9 * 13, 9 * 22)
    page = " ".join((RESULTS / "README.md").read_text(encoding="utf-8").split())
    assert all(done == planned for _, planned, done in progress.values())
    assert f"Nothing is left: all of its {sum(planned for _, planned, _ in progress.values())} runs have" in page


def accuracies(rows):
    """In points, by seed."""
    return [100 * float(row["accuracy"]) for row in sorted(rows, key=lambda row: int(row["seed"]))]


def test_what_the_page_says_of_98_percent_is_what_the_rows_say():
    page = words("large")
    assert (
        "None of the four settings of variational dropout comes near 98 %: one stays far below, three go beyond" in page
    )
    rows = chosen.read(STUDY)
    pilots = chosen.cells(rows, f"{large.LONGEST}, pilots")
    zeros = sorted(float(cell[1_000]["sparsity"]) for (name, _), cell in pilots.items() if name == VD)
    assert len(zeros) == 4
    assert zeros[0] < 0.5
    assert zeros[1] > 0.99
    assert "the best of these leaves less than a third of the weights that magnitude pruning leaves" in page
    finals = {name: list(cell.values()) for (name, _), cell in chosen.cells(rows, large.LONGEST).items()}
    left = {name: 1 - np.mean([float(row["sparsity"]) for row in own]) for name, own in finals.items()}
    assert 0.25 < left[VD] / left["magnitude"] < 1 / 3
    assert (
        "In 30 epochs, with log σ² −15, a later ramp and a smaller coefficient, it has 98 % and a higher mean" in page
    )
    assert "(n = 3; not planned, and not shown)" in page
    ours = list(chosen.at_level(rows, large.LONG, VD, 0.98).values())
    assert {row["setting"] for row in ours} == {"0.3"}
    more = np.subtract(accuracies(ours), accuracies(finals[VD]))
    assert np.mean(more) > 0
    assert stats.ttest_1samp(more, 0).pvalue > 0.05


def shown_in(name):
    """What a family of comparisons shows at 5 %: label, level and whether it is higher."""
    return {
        (one.label, one.level, one.difference.mean > 0)
        for one in large.families()[name]
        if one.difference and one.p < 0.05
    }


def test_what_choose_says_is_what_the_rows_show():
    page = " ".join((RESULTS.parent / "docs" / "choose.md").read_text(encoding="utf-8").split())
    assert (
        "in 20 epochs (n = 3), random pruning is shown to be worse than magnitude pruning at 98 %, variational dropout "
        "to be better at 50 %, and nothing else" in page
    )
    assert shown_in("ResNet-50") == {("random less magnitude", 0.98, False), (f"{VD} less magnitude", 0.5, True)}
    assert (
        "On a small Transformer (n = 3) L0 is shown to be worse than magnitude pruning at all levels, random pruning "
        "from 60 % on, and variational dropout at 60, 80 and 95 %. L0 and variational dropout have more zeros at"
        in page
    )
    levels = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
    worse = {"L0": levels, "random": levels[1:], VD: (0.6, 0.8, 0.95)}
    assert shown_in("Transformer") == {(f"{name} less magnitude", s, False) for name, own in worse.items() for s in own}
    for name in ("L0", VD):
        assert 0 < sum(bool(large.sparser(large.BOTH, [name], s)) for s in levels) < len(levels)


def test_what_the_page_found_of_what_the_plan_expected():
    page = words("large")
    assert "in 20 epochs variational dropout reaches neither 95 nor 98 %. In 30 epochs it has a higher mean" in page
    for level in (0.95, 0.98):
        assert not large.at(large.SHORT, VD, level)
        ours, theirs = (large.at(large.LONG, name, level) for name in (VD, "magnitude"))
        assert np.mean([*ours.values()]) > np.mean([*theirs.values()])
    assert (
        "is not shown to be better at 98 %, in 20 or in 30 epochs, nor 30 epochs to be better than 20 with either"
        in page
    )
    assert shown_in("layout") == set()
    assert "At 98 % all four means are higher (n = 3)" in page
    four = [one for one in large.families()["layout"] if one.level == 0.98 and one.label.startswith(("ext", "30"))]
    assert len(four) == 4
    assert all(one.difference.mean > 0 for one in four)
    assert "H3: shown at 90 and 95 % (n = 5). At 80 % p is 0.057; at 98 % one of five runs" in page
    assert shown_in("width") == {("random less magnitude", s, False) for s in (0.9, 0.95)}
    (one,) = [one for one in large.families()["width"] if one.level == 0.8]
    assert f"{one.p:.3f}" == "0.057"


def test_what_the_page_says_of_one_run_of_the_narrow_network():
    lowest, *rest = (f"{score:.1f}" for score in sorted(large.at(large.NARROW, "random", 0.98).values()))
    said = f"ends near chance, with {lowest} %; the other four have {rest[0]} to {rest[-1]} %"
    assert len(rest) == 4
    assert said in words("large")


def test_what_the_page_says_of_layers_is_what_the_rows_say():
    page = words("large")
    assert "In the last stage it removes more than 99.9 % of the first two convolutions of each block" in page
    with (RESULTS / "cifar10-resnet50" / "layers.csv").open(newline="", encoding="utf-8") as file:
        names = [row["layer"] for row in csv.DictReader(file)][:54]
    ours = list(chosen.at_level(chosen.read(STUDY), large.LONG, VD, 0.95).values())
    zeros = dict(zip(names, np.mean([[*map(float, row["layers"].split())] for row in ours], axis=0), strict=True))
    assert min(zeros[f"layer4.{block}.conv{n}.weight"] for block in range(3) for n in (1, 2)) > 0.999
    for stage, blocks in ((1, 3), (2, 4), (3, 6), (4, 3)):
        for block in (f"layer{stage}.{number}" for number in range(1, blocks)):
            first, second, last = (zeros[f"{block}.conv{n}.weight"] for n in (1, 2, 3))
            assert last < min(first, second)
    assert max(zeros["conv1.weight"], zeros["fc.weight"]) < 0.8


def test_the_settings_tried_are_those_that_the_plan_counts():
    text = (RESULTS / "large" / "PLAN.md").read_text(encoding="utf-8")
    assert "5 coefficients for 7 levels; the threshold needs no training" in text
    assert "A sixth, 0.03, was added on 29 November 2026" in text
    assert [*large_transformer.KL_WEIGHTS] == [0.03, 0.1, 0.2, 0.5, 1.0, 3.0]
    assert len(large_transformer.L0_WEIGHTS) == 5
    assert "D: variational dropout, magnitude | 4, 4" in text
    assert [len(settings) for settings in large_resnet50.BEYOND.values()] == [4, 4]
    assert "J: L0, ResNet-50 | 12" in text
    assert len(large_resnet50.GATES) == 12
    assert "rates of 0.4 and 0.05" in text
    assert large_probes.RATES == (0.4, 0.05)
