"""docs/checkpoints.md has every published checkpoint, with the command that imports it.

``python -m tests.study.release.test_checkpoints_document`` prints its table.
"""

import csv
import re
from pathlib import Path

import pytest
from typer.main import get_command

import openwork
from openwork.cli import app

DOCUMENT = Path(__file__).parents[3] / "docs" / "checkpoints.md"
TABLE = Path(openwork.__file__).parent / "study" / "published" / "tables" / "checkpoints.csv"
ROWS = list(csv.DictReader(TABLE.read_text().splitlines()))
TECHNIQUES = {
    "magnitude_pruning": ("magnitude pruning", "magnitude"),
    "magnitude_pruning_extended_nonuniform": ("magnitude pruning, extended", "magnitude"),
    "random_pruning": ("random pruning", "random"),
    "variational_dropout": ("variational dropout", "variational-dropout"),
    "l0_regularization": ("L0", "l0"),
}


def command(row):
    steps = {"transformer": 500_000, "resnet50": 128_000}[row["model"]]
    if "extended" in row["technique"]:
        steps = 48_000
    threshold = f" --threshold {row['log_alpha_threshold']}" if row["log_alpha_threshold"] else ""
    kind = TECHNIQUES[row["technique"]][1]
    options = f"--model {row['model']} --technique {kind}{threshold}"
    return f"openwork import-tf {row['name']}/model.ckpt-{steps} {options} --out {row['name']}.safetensors"


def line(row):
    figure = f"{float(row['value']):.2f} {'BLEU' if row['metric'] == 'BLEU' else '%'}"
    model = {"transformer": "Transformer", "resnet50": "ResNet-50"}[row["model"]]
    sparsity = f"{100 * float(row['listed_sparsity']):g} %"
    return f"| {model} | {TECHNIQUES[row['technique']][0]} | {sparsity} | {figure} | `{command(row)}` |"


def test_every_published_checkpoint_has_its_row():
    text = DOCUMENT.read_text()
    found = [one for one in text.splitlines() if one.startswith(("| Transformer |", "| ResNet-50 |"))]
    assert found == [line(row) for row in ROWS]
    assert len(found) == 49


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_its_command_parses_and_its_threshold_is_that_of_its_name(row):
    _, name, *arguments = command(row).split()
    get_command(app).commands[name].make_context(name, arguments)
    if row["technique"] == "variational_dropout":
        expected = row["name"].rpartition("_")[2] if row["model"] == "transformer" else "0.5"
        assert re.search(r"--threshold (\S+)", command(row))[1] == expected


if __name__ == "__main__":
    for row in ROWS:
        print(line(row))  # noqa: T201
