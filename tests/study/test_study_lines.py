"""What reads the committed CSV files: two different rows of one run are refused, whichever reader meets them."""

import csv
import shutil
from pathlib import Path

import pytest

from openwork.study.data.lines import read_lines
from openwork.study.experiments.contest import choices
from tests.processes import python
from tests.study.study_script import script

RESULTS = Path(__file__).parents[2] / "results"
CHOSEN = RESULTS / "mnist" / "study" / "chosen.csv"
READ = """
import sys
from seeds import rows
for path in sys.argv[1:]:
    print(path, len(rows(*path.rsplit("/", 1))))
"""


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def merged(path, row, **changes):
    """Adds a row again, with other cells, as a bad merge of two branches leaves it."""
    with path.open(newline="", encoding="utf-8") as file:
        names = next(csv.reader(file))
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.DictWriter(file, names).writerow(row | changes)


def test_every_committed_file_has_each_row_once():
    paths = sorted(path for path in RESULTS.rglob("*.csv") if "large" not in path.parts)
    said = python(RESULTS, READ, *(str(path.with_suffix("")) for path in paths)).splitlines()
    assert said == [f"{path.with_suffix('')} {len(table(path))}" for path in paths]


@pytest.mark.parametrize(
    ("file", "column"),
    [("mnist/rows", "after_value"), ("mnist/layers", "sparsity"), ("mnist/thresholds", "accuracy"),
     ("mnist/study/tournament", "accuracy"), ("mnist/study/chosen", "setting"),
     ("one-shot/study/minilm", "cosine")],
)  # fmt: skip
def test_tables_refuse_two_different_rows_of_one_run(file, column, tmp_path):
    path = tmp_path / f"{Path(file).name}.csv"
    shutil.copy(RESULTS / f"{file}.csv", path)
    first = table(path)[0]
    merged(path, first)
    counted = python(RESULTS, READ, str(path.with_suffix("")))
    assert counted.split()[-1] == str(len(table(path)) - 1)  # the same row twice is one
    merged(path, first, **{column: "0"})
    refused = f"try:\n    exec({READ!r})\nexcept SystemExit as error:\n    print(error)"
    said = python(RESULTS, refused, str(path.with_suffix("")))
    assert f"{path} has in lines 2 and " in said
    assert "two different rows of " in said
    assert "it is damaged; mend it" in said


def test_two_choices_for_one_level_are_refused(tmp_path):
    path = tmp_path / "chosen.csv"
    shutil.copy(CHOSEN, path)
    first = table(path)[0]
    merged(path, first)
    assert choices(path) == choices(CHOSEN)
    merged(path, first, setting=int(first["setting"]) + 1)
    with pytest.raises(ValueError, match=r"two different rows of technique=.*, level=.*: it is damaged; mend it"):
        choices(path)


def test_two_factors_for_one_aim_are_refused(tmp_path):
    run, path = script("cifar10-tournament"), tmp_path / "factors.csv"
    shutil.copy(RESULTS / "cifar10-tournament" / "study" / "factors.csv", path)
    before, first = run.factors(tmp_path), table(path)[0]
    merged(path, first)
    assert run.factors(tmp_path) == before
    merged(path, first, factor="7")
    with pytest.raises(SystemExit, match=r"two different rows of technique=.*, aim=.*: it is damaged; mend it"):
        run.factors(tmp_path)


def test_a_column_that_is_there_twice_is_damage(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("id,accuracy,accuracy\nx,0.9,0.8\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"has the column accuracy twice: it is damaged; mend it"):
        read_lines(path, ("id",))


@pytest.mark.parametrize(
    ("use", "lacking"),
    [
        ("answers.COSTS = [path]; answers._beside_dense('GiB')", "values"),
        ("choices.MEASURED = [path]; choices.of_a_step()", "values, n, processor, torch"),
    ],
)
def test_measured_costs_lack_no_column_that_is_read(tmp_path, use, lacking):
    path = tmp_path / "costs.csv"
    path.write_text("variant,unit\nx: dense,GiB\n", encoding="utf-8")
    guarded = f"\ntry: {use}\nexcept SystemExit as error: print(error)"
    said = python(
        RESULTS, f"import sys, answers, choices\nfrom pathlib import Path\npath = Path(sys.argv[1]){guarded}", str(path)
    )
    assert f"has no column {lacking}: it is damaged; mend it" in said
