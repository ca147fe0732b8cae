"""What results/cifar10-tournament says is what its rows say, computed again by SciPy; without rows it says so."""

import csv
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from openwork.study.experiments import tournament_cifar10
from openwork.study.experiments.tournament_cifar10 import LEVELS, PILOTS, contest
from tests.processes import python
from tests.study.cifar_claims import of
from tests.study.study_claims import holm
from tests.study.study_script import driver, script

RESULTS = Path(__file__).parents[2] / "results"
STUDY = RESULTS / "cifar10-tournament" / "study"
NAMES = ("table", "comparisons", "levels_in_words")
CODE = """
import json, sys
from pathlib import Path
import cifar_tournament as made
made.STUDY = Path(sys.argv[1])
print(json.dumps({name: getattr(made, name)() for name in sys.argv[2:]}))
"""
UNIFORM, DROPOUT = "magnitude, uniform", "variational dropout"
REFERENCE, RIGL, STATIC = "magnitude, global ranking", "RigL, Erdős–Rényi", "random at the start, Erdős–Rényi"
run = script("cifar10-tournament")


def made(study):
    """The tables of rows in another folder."""
    return json.loads(python(RESULTS, CODE, study, *NAMES))


def write(folder, scores, sparsities=None):
    """Rows as parts B and C write them: (technique, level) -> accuracies by seed, None where it diverged."""
    rows = run.Rows(folder / "tournament.csv", run.FINAL, (*run.MEASURED, *run.COST))
    rows.add({
        (name, level, seed): {
            "accuracy": "" if value is None else value,
            "sparsity": (sparsities or {}).get((name, level), level),
        }
        for (name, level), values in scores.items()
        for seed, value in enumerate(values)
    })  # fmt: skip


def test_without_rows_everything_says_which_command_comes_next(tmp_path):
    assert set(made(tmp_path).values()) == {
        "Not run yet: `python results/cifar10-tournament/run.py results/cifar10-tournament/study --runs runs --device "
        "cuda --precision bf16 --seconds 540`."
    }


def test_verdicts_and_intervals_are_those_of_scipy(tmp_path):
    random = np.random.default_rng(0)
    common = random.normal(0.86, 0.003, 5)
    shifts = {REFERENCE: 0.0, RIGL: 0.02, STATIC: -0.03, "SNIP": 0.001}
    scores = {(name, 0.95): np.round(common + by + random.normal(0, 0.001, 5), 4) for name, by in shifts.items()}
    dense = np.round(common + 0.03, 4)
    write(tmp_path, scores | {("dense", 0.0): dense})
    found = made(tmp_path)
    p = {
        name: stats.ttest_rel(scores[name, 0.95], scores[REFERENCE, 0.95]).pvalue
        for name in shifts
        if name != REFERENCE
    }
    names = [name for name in contest().entrants if name not in ("dense", REFERENCE)]
    rest = {(name, level): 1.0 for name in names for level in LEVELS if (name, level) not in scores}
    corrected = holm({(name, 0.95): value for name, value in p.items()} | rest)
    assert [corrected[name, 0.95] < 0.05 for name in (RIGL, STATIC, "SNIP")] == [True, True, False]
    for name, mark in ((RIGL, " ▲"), (STATIC, " ▼"), ("SNIP", ""), (REFERENCE, "")):
        values = 100 * scores[name, 0.95]
        half = stats.t.ppf(0.975, 4) * stats.sem(values)
        assert f"| {name} | 5 | – | – | {values.mean():.2f} ± {half:.2f}{mark} | – |" in found["table"]
    difference = 100 * (scores[RIGL, 0.95] - scores[REFERENCE, 0.95]).mean()
    better = f"better, by points: RigL with Erdős–Rényi ({difference:+.2f})"
    assert f"{better}; not told from it: SNIP (" in found["levels_in_words"]
    assert "; worse: 1 of 3." in found["levels_in_words"]
    # Of the 22 named comparisons three can be made.
    pairs = {"rigl": (RIGL, STATIC), "magnitude": (REFERENCE, STATIC), "snip": ("SNIP", REFERENCE)}
    p = {key: stats.ttest_rel(scores[one, 0.95], scores[other, 0.95]).pvalue for key, (one, other) in pairs.items()}
    shown = [key for key, value in holm(p | {str(n): 1.0 for n in range(19)}).items() if value < 0.05]
    assert sorted(shown) == ["magnitude", "rigl"]
    for key, (one, other) in pairs.items():
        values = 100 * (scores[one, 0.95] - scores[other, 0.95])
        half = stats.t.ppf(0.975, 4) * stats.sem(values)
        ends = [
            f"{value:+.2f}".replace("-", "−") for value in (values.mean(), values.mean() - half, values.mean() + half)
        ]
        (cell,) = re.findall(rf"^\| {one} less {other} \| 5 \| (.*?) \| – \|$", found["comparisons"], re.M)
        assert cell.startswith("{} ({} to {}), p ".format(*ends))
        assert cell.endswith({"rigl": ": better", "magnitude": ": better", "snip": ": not shown"}[key])


def test_pairs_have_the_seeds_that_both_have_and_say_so(tmp_path):
    random = np.random.default_rng(1)
    five, three = np.round(0.7 + random.normal(0, 0.003, 5), 4), np.round(0.69 + random.normal(0, 0.003, 3), 4)
    # The seeds 3 and 4, which one of the two lacks, would turn its difference from the other one.
    five[3:] = 0.5
    write(tmp_path, {(REFERENCE, 0.95): five, (UNIFORM, 0.95): five[::-1], (DROPOUT, 0.95): three})
    found = made(tmp_path)
    values = 100 * (three - five[::-1][:3])
    difference, p = values.mean(), stats.ttest_rel(three, five[::-1][:3]).pvalue
    (line,) = [line for line in found["comparisons"].splitlines() if line.startswith(f"| {DROPOUT} less {UNIFORM} ")]
    assert line.startswith(f"| {DROPOUT} less {UNIFORM} | 3 | {difference:+.2f} (")
    assert f"| {DROPOUT} | 3 | – | – | {100 * three.mean():.2f} ± " in found["table"]
    assert f"| {REFERENCE} | 5 | " in found["table"]
    other = 100 * (three - five[:3]).mean()
    assert p > 0.05 / 22
    assert f"variational dropout ({other:+.2f}, n = 3)".replace("-", "−") in found["levels_in_words"]


def test_a_row_has_three_seeds_or_five_counts_the_diverged_and_leaves_out_what_misses_its_level(tmp_path):
    write(
        tmp_path,
        {
            (REFERENCE, 0.9): [0.86, 0.87, 0.85, 0.86, 0.87],
            ("SET", 0.9): [0.85, None, 0.84, 0.85],
            ("L0", 0.9): [0.80, 0.81, 0.82],
            ("SNIP", 0.9): [0.80, 0.81],
        },
        {("L0", 0.9): 0.85},
    )
    table = made(tmp_path)["table"]
    assert "| SET | 3 | – | 59.67 ± " in table  # 85, 10 and 84
    assert "(85.0 %)" in table
    assert "| SNIP | 0 | – | – |" in table


def test_the_picture_is_drawn_from_the_rows(tmp_path):
    write(tmp_path, {("dense", 0.0): [0.9, 0.91, 0.9], (REFERENCE, 0.9): [0.86, 0.87, 0.85], (RIGL, 0.9): [0.85] * 3})
    code = (
        "import sys; from pathlib import Path; import cifar_tournament, played; played.STUDY = Path('nowhere'); "
        "cifar_tournament.STUDY = Path(sys.argv[1]); import draw_study; draw_study.CIFAR = cifar_tournament.STUDY; "
        "draw_study.main()"
    )
    python(RESULTS, code, tmp_path)
    assert [path.name for path in tmp_path.glob("*.png")] == ["tournament.png"]


@pytest.mark.parametrize("name", [path.stem for path in STUDY.glob("*.csv") if path.stem not in ("chosen", "factors")])
def test_the_id_of_a_row_is_that_of_the_run_that_its_key_names(name, monkeypatch):
    monkeypatch.setattr(tournament_cifar10, "only_jpeg", lambda: True)  # as on the machine that made the rows
    with (STUDY / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    epochs = max(int(row["step"]) for row in rows) // 195
    whole = run.planned(STUDY, epochs)
    made = {"pilots": lambda: run.pilots(epochs), "tuning": whole.trials,
            "tournament": lambda: whole.finals(STUDY / "chosen.csv")}  # fmt: skip
    columns = {"pilots": run.PILOT, "tuning": run.TRIAL, "tournament": run.FINAL}[name]
    runs = {driver().texts(key): value for key, value in made[name]().items()}
    assert all(runs[tuple(row[column] for column in columns)].id == row["id"] for row in rows)
    have = {row["technique"] for row in rows}
    assert set(PILOTS) <= have if name != "tournament" else have == {*contest().entrants}


def test_nothing_is_left_as_the_pages_say():
    left = Counter()
    for part, piece in run.pieces(STUDY, rate=550):
        with (STUDY / f"{piece.file}.csv").open(newline="", encoding="utf-8") as file:
            held = {tuple(row[column] for column in piece.columns) for row in csv.DictReader(file)}
        left.update((part, key[0]) for key in piece.runs() if driver().texts(key) not in held)
    assert not left
    own, every = ((folder / "README.md").read_text(encoding="utf-8") for folder in (STUDY.parent, RESULTS))
    assert "Nothing is left." in own
    assert "as [its page](cifar10-tournament/README.md#how) says. Nothing is left." in every


def test_the_page_says_what_two_more_seeds_of_variational_dropout_changed():
    with (STUDY / "tournament.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["technique"] == DROPOUT and row["level"] == "0.98"]
    zeros = [float(row["sparsity"]) for row in sorted(rows, key=lambda row: int(row["seed"]))]
    assert len(zeros) == 5
    assert 1 - np.mean(zeros[:3]) <= 1.05 * 0.02 < 1 - np.mean(zeros)
    page = " ".join((STUDY.parent / "README.md").read_text(encoding="utf-8").split())
    assert (
        f"At 98 % the mean of five has {100 * np.mean(zeros):.2f} % zeros, where 97.9 are needed, so as planned" in page
    )
    assert f"that of seeds 0 to 2 had {100 * np.mean(zeros[:3]):.2f}." in page
    difference = of(DROPOUT, UNIFORM, 0.98).replace(", ", " (")
    assert f"The difference from uniform magnitude pruning, {difference}), has no test (n = 5)" in page
