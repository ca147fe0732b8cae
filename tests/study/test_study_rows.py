"""The rows of the small study are of the runs that the plan and the choices name."""

import csv
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from openwork.study.experiments import mnist, section6, tournament
from openwork.study.tasks.lenet import MnistLeNet5Caffe
from tests.study.study_script import driver as shared
from tests.study.study_script import script

STUDY = Path(__file__).parents[2] / "results" / "mnist" / "study"
run, driver = script(), shared()


def table(name):
    with (STUDY / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def exists(name):
    return (STUDY / f"{name}.csv").exists()


def expected(name):
    """The runs by key, as the file has it."""
    networks = ("LeNet-300-100", "LeNet-5-Caffe")
    made = {
        "tuning": tournament.trials,
        "tournament": lambda: tournament.finals(STUDY / "chosen.csv"),
        "lenet5": lambda: tournament.finals_of_lenet5(STUDY / "chosen.csv"),
        "section6": section6.networks,
        "recipes": lambda: {key: value for net in networks for key, value in run.recipes(net).items()},
    }
    return {driver.texts(key): value for key, value in made[name]().items()}


@pytest.mark.parametrize("name", sorted(path.stem for path in STUDY.glob("*.csv") if path.stem != "chosen"))
def test_the_id_of_a_row_is_that_of_the_run_that_its_key_names(name):
    runs = expected(name)
    columns = {piece.file: piece.columns for _, piece in run.pieces(STUDY)}[name]
    for row in table(name):
        key, (id, _, threshold) = tuple(row[column] for column in columns), row["id"].partition("@")
        key = (*key[:-1], "3") if threshold else key
        assert runs[key].id == id, key
        assert row["status"] == "diverged" or int(row["step"]) == runs[key].steps


def test_every_technique_in_the_tournament_has_60_tuning_runs_and_20_seeds_at_each_level():
    tuned = Counter(row["technique"] for row in table("tuning"))
    assert set(tuned.values()) == {60}
    seeds = defaultdict(set)
    for row in table("tournament"):
        seeds[row["technique"], row["level"]].add(int(row["seed"]))
    assert all(found == set(range(20)) for found in seeds.values())
    assert {name for name, _ in seeds} <= set(tuned)


def test_the_choices_are_those_of_the_tuning_rows(tmp_path):
    (tmp_path / "tuning.csv").write_bytes((STUDY / "tuning.csv").read_bytes())
    run.write_choices(tmp_path)
    assert (tmp_path / "chosen.csv").read_text() == (STUDY / "chosen.csv").read_text()


def test_the_files_are_small():
    assert sum(path.stat().st_size for path in STUDY.glob("*.csv")) < 2_000_000


def test_the_recipes_have_their_seeds():
    found = table("recipes") if exists("recipes") else []
    seeds = Counter((row["net"], row["train_clip"], row["lasagne"], row["threshold"]) for row in found)
    assert {n for (net, *_), n in seeds.items() if net == "LeNet-300-100"} == ({20} if found else set())
    assert {n for (net, *_), n in seeds.items() if net == "LeNet-5-Caffe"} == ({10} if found else set())
    assert len(mnist.recipes(MnistLeNet5Caffe, 10)) == 40


def test_the_pages_say_how_many_runs_are_left():
    left = Counter()
    for part, piece in run.pieces(STUDY):
        held = {tuple(row[c] for c in piece.columns) for row in table(piece.file)} if exists(piece.file) else set()
        left[part] += sum(driver.texts(key) not in held for key in piece.runs())
    assert left == {"A": 0, "B": 0, "C": 0, "D": 0, "E": 0, "F": 0, "G": 0, "H": 0}
    page = (STUDY.parents[1] / "README.md").read_text()
    for said in (
        "nothing: 840 runs",
        "nothing: 2,080 rows",
        "nothing: 80 runs",
        "nothing: 1,020 runs",
        "nothing: 10 runs",
        "nothing: 60 tuning runs, 160 rows",
        "nothing: 170 runs",
        "nothing: 30 runs",
    ):
        assert f"| {said}" in page
    assert (len(table("tuning")), len(table("section6"))) == (840 + 60, 1_020)
    assert len(table("chosen")) * 20 == len(table("tournament")) == 2_080 + 160


def test_the_changelog_counts_the_runs():
    names = [path.stem for path in STUDY.glob("*.csv") if path.stem != "chosen"]
    ids = {row["id"].partition("@")[0] for name in names for row in table(name)}
    assert f"{len(ids):,} runs are made" in (STUDY.parents[2] / "CHANGELOG.md").read_text()
    assert f"nothing is left: all {len(ids):,} runs" in " ".join((STUDY.parents[1] / "README.md").read_text().split())
