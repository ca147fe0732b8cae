"""What results/cifar10-tournament says is what its rows say, computed again by SciPy; without rows it says so."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from openwork.study.experiments import tournament_cifar10
from openwork.study.experiments.tournament_cifar10 import LEVELS, PILOTS, contest
from tests.processes import python
from tests.study.study_claims import holm
from tests.study.study_script import driver, script

RESULTS = Path(__file__).parents[2] / "results"
STUDY = RESULTS / "cifar10-tournament" / "study"
NAMES = ("table", "comparisons", "paragraph")
CODE = """
import json, sys
from pathlib import Path
import cifar_tournament as made
made.STUDY = Path(sys.argv[1])
print(json.dumps({name: getattr(made, name)() for name in sys.argv[2:]}))
"""
REFERENCE, RIGL, STATIC = "magnitude, global ranking", "RigL, Erdős–Rényi", "random at the start, Erdős–Rényi"
PLAYED = {  # of part B, so far
    "dense",
    "magnitude, uniform",
    REFERENCE,
    "lottery ticket, rewound",
    "random",
    STATIC,
    RIGL,
    "SNIP",
}
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
    assert f"{better}; not told from it: SNIP (" in found["paragraph"]
    assert "; worse: 1 of 3." in found["paragraph"]
    # Of the 22 named comparisons three can be made.
    pairs = {"rigl": (RIGL, STATIC), "magnitude": (REFERENCE, STATIC), "snip": ("SNIP", REFERENCE)}
    p = {key: stats.ttest_rel(scores[one, 0.95], scores[other, 0.95]).pvalue for key, (one, other) in pairs.items()}
    shown = [key for key, value in holm(p | {str(n): 1.0 for n in range(19)}).items() if value < 0.05]
    assert sorted(shown) == ["magnitude", "rigl"]
    plain = "magnitude pruning with global ranking"
    rigl, static = "RigL with Erdős–Rényi", "random pruning at the start with Erdős–Rényi"
    assert found["paragraph"].endswith(
        f"names: {rigl} less {static}, lower at 95 %; {plain} less {static}, lower at 95 %; SNIP less {plain}, "
        "undecided at 95 %."
    )


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
    assert set(PILOTS) <= have if name != "tournament" else have == PLAYED
