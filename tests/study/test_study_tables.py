"""The scripts of results/ write their tables from as many parts of the small study as have rows."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from tests.processes import python

RESULTS = Path(__file__).parents[2] / "results"
STUDY = RESULTS / "mnist" / "study"
COMMAND = "Not run yet: `python results/mnist/run.py results/mnist/study"
CODE = """
import json, sys
from pathlib import Path
import played
played.STUDY = Path(sys.argv[1])
import tables
print(json.dumps({name: make() for name, make in tables.TABLES.items() if name in sys.argv[2:]}))
"""
NAMES = ("in short", "findings", "caveats", "recipes", "recipes, effects",
         "recipes, effects on LeNet-5-Caffe", "SparseVD's table", "tournament", "tournament, references",
         "tournament, named pairs", "tournament, dense", "tournament, LeNet-5-Caffe", "masks", "masks, comparisons",
         "study, cost")  # fmt: skip


def made(study):
    """The tables of a study in another folder."""
    return json.loads(python(RESULTS, CODE, study, *NAMES))


def held(name):
    with (STUDY / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def recipes(net, seeds):
    """Rows as part C would have them, of other runs."""
    runs = [row for row in held("tournament") if (row["technique"], row["level"]) == ("variational dropout", "0.99")]
    measured = [name for name in runs[0] if name not in ("technique", "level", "seed")]
    return [
        {"net": net, "train_clip": clip, "lasagne": lasagne, "seed": row["seed"], "threshold": threshold}
        | {name: row[name] for name in measured}
        for clip in ("True", "False")
        for lasagne in ("True", "False")
        for threshold in ("3", "2", "0.1")
        for row in runs[:seeds]
    ]


def test_a_study_without_rows_says_so_in_every_table(tmp_path):
    found = made(tmp_path)
    for name in set(NAMES) - {"in short", "findings", "SparseVD's table", "study, cost"}:
        assert found[name].startswith(COMMAND), name
    assert "not run yet" in found["SparseVD's table"]
    assert "not run yet" in found["study, cost"]
    assert found["findings"].startswith("* Not run yet: the tournament of LeNet-300-100")
    assert "tuned with 60 runs" not in found["in short"]


@pytest.mark.parametrize("part", ["section6", "tournament"])
def test_a_part_that_is_there_is_shown_without_the_others(tmp_path, part):
    for name in {"tuning", "chosen", part}:
        shutil.copy(STUDY / f"{name}.csv", tmp_path)
    found = made(tmp_path)
    assert ("| lottery ticket | 5 masks |" in found["masks"]) == (part == "section6")
    assert ("| RigL | 20 |" in found["tournament"]) == (part == "tournament")
    assert found["recipes"].startswith(COMMAND)


@pytest.mark.parametrize(
    ("cells", "parts"),
    [
        ((), "EH"),
        ((("True", "True"),), "H"),
        ((("True", "True"), ("True", "False")), "H"),
        ((("True", "False"), ("False", "True"), ("False", "False")), "E"),
    ],
)
def test_the_recipes_name_the_parts_of_which_cells_are_left(tmp_path, cells, parts):
    small = [row for row in recipes("LeNet-5-Caffe", 10) if (row["train_clip"], row["lasagne"]) in cells]
    write(tmp_path / "recipes.csv", recipes("LeNet-300-100", 20) + small)
    found = made(tmp_path)
    assert found["recipes"].endswith(f" --parts {parts}`.")
    assert found["recipes, effects on LeNet-5-Caffe"].endswith(f" --parts {parts}`.")
    left = found["findings"].splitlines()[-1]
    assert ("SparseVD's recipe on LeNet-5-Caffe" in left) == ("E" in parts)
    assert ("other recipes on LeNet-5-Caffe" in left) == ("H" in parts)
    assert ("`train_clip` alone" in left) == ("H" in parts and ("True", "False") not in cells)


def test_a_technique_with_fewer_than_20_seeds_has_not_been_run(tmp_path):
    shutil.copy(STUDY / "chosen.csv", tmp_path)
    write(
        tmp_path / "tournament.csv",
        [row for row in held("tournament") if (row["technique"], row["seed"]) != ("SET", "7")],
    )
    assert "| SET | 0 | not run yet |" in made(tmp_path)["tournament"]


def test_parts_that_come_later_fill_what_was_not_run(tmp_path):
    for name in ("tuning", "chosen", "section6"):
        shutil.copy(STUDY / f"{name}.csv", tmp_path)
    late = ("group L0", "soft weight sharing")
    runs = [row for row in held("tournament") if row["technique"] not in late]
    of_set = [row for row in runs if row["technique"] == "SET"]
    more = [row | {"technique": name} for name in late for row in of_set]
    write(tmp_path / "tournament.csv", runs + more)
    write(tmp_path / "recipes.csv", recipes("LeNet-300-100", 20) + recipes("LeNet-5-Caffe", 10))
    small = [row for row in runs if row["technique"] in ("dense", "L0") and int(row["seed"]) < 10]
    write(tmp_path / "lenet5.csv", small)
    found = made(tmp_path)
    assert [name for name, text in found.items() if "not run yet" in text.lower()] == []
    assert "| group L0 | 20 | 1.51 ± 0.04" in found["tournament"]
    assert "| LeNet-5-Caffe, both: SparseVD's code, threshold 2 | 10 |" in found["recipes"]
    assert "SparseVD's recipe on LeNet-300-100 (n = 20)" in found["findings"]
    assert "Exploratory, on LeNet-5-Caffe (n = 10, no tests)" in found["findings"]
    assert found["recipes, effects on LeNet-5-Caffe"].count("| 10 | +0.00 | +0.00 |") == 4
    assert found["tournament, LeNet-5-Caffe"].splitlines()[2].startswith("| dense | 10 |")


@pytest.mark.parametrize(
    ("parts", "pictures"), [((), []), (("section6",), ["masks.png"]), (("chosen", "tournament"), ["tournament.png"])]
)
def test_pictures_are_drawn_of_what_has_rows(tmp_path, parts, pictures):
    for name in parts:
        shutil.copy(STUDY / f"{name}.csv", tmp_path)
    code = (
        "import sys; from pathlib import Path; import cifar_tournament, played; played.STUDY = Path(sys.argv[1]); "
        "cifar_tournament.STUDY = Path('nowhere'); "  # or its picture in the repository would be written
        "import draw_study; draw_study.STUDY = played.STUDY; draw_study.main()"
    )
    python(RESULTS, code, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == pictures
