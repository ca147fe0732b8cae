"""The rows in results/: each says what run it is of, and its id is the hash of that."""

import csv
import hashlib
import json
from pathlib import Path

import pytest

from openwork.study.results.store import COLUMNS, FORMAT
from openwork.study.runs.config import canonical, from_plain, override

RESULTS = Path(__file__).parents[2] / "results"
STUDIES = sorted(path.parent.name for path in RESULTS.glob("*/rows.csv"))


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_there_are_four_studies():
    assert STUDIES == ["cifar10", "cifar10-resnet50", "mnist", "translation"]
    assert sum(len(table(RESULTS / study / "rows.csv")) for study in STUDIES) == 12 + 55 + 57 + 106


@pytest.mark.parametrize("study", STUDIES)
def test_a_row_s_id_name_and_settings_are_those_of_its_run(study):
    rows = table(RESULTS / study / "rows.csv")
    trained = {row["id"]: row["run"] for row in rows if "@" not in row["id"]}
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert list(row) == [column for column in COLUMNS if column != "replicate"]  # which is younger than they are
        assert row["format"] == str(FORMAT)
        run = from_plain(json.loads(row["run"]))
        id, at, threshold = row["id"].partition("@")
        assert hashlib.sha256(trained[id].encode()).hexdigest()[:16] == id
        threshold, _, data = threshold.partition(",")
        settings = [f"technique.threshold={threshold}"] if at else []
        settings += [f"task.judged_on={data}"] if data else []
        changed = override(from_plain(json.loads(trained[id])), settings)
        assert (changed, canonical(changed)) == (run, row["run"])
        assert (row["task"], row["name"], row["settings"], row["seed"]) == (
            run.task.title, run.name, run.settings, str(run.seed),
        )  # fmt: skip
        assert at or run.id == id
        assert row["judged_on"] == run.task.judged_on
        # What is measured before finalizing was the BLEU of the test set, too.
        assert row["watched_on"] == ("test" if study == "translation" else run.task.watched_on)


def kinds(plain):
    """The names of the types in a description."""
    if isinstance(plain, list):
        return set().union(*map(kinds, plain))
    if not isinstance(plain, dict):
        return set()
    own = {plain["type"]} if "type" in plain else set()
    return own.union(*map(kinds, plain.values()))


@pytest.mark.parametrize("study", STUDIES)
def test_the_defaults_that_an_id_relies_on_are_written_down(study):
    found = set().union(*(kinds(json.loads(row["run"])) for row in table(RESULTS / study / "rows.csv")))
    missing = found - json.loads(Path(__file__).with_name("defaults.json").read_text()).keys()
    assert not missing, "write their defaults down in defaults.json: from now on ids rely on them"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/*.csv")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_id_beside_the_rows_is_that_of_a_row(path):
    rows = {row["id"] for row in table(path.with_name("rows.csv"))}
    assert {row["id"] for row in table(path)} <= rows
