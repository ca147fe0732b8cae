"""Code of users that ends the program is an error of one run, and not the end of all."""

import json

import pytest

from tests.cli.folders import openwork

LAB = """
import sys
from dataclasses import dataclass

from openwork.study.runs.run import Run
from tests.study.tinylab import PRUNE, Tiny


@dataclass(frozen=True)
class Ending(Tiny):
    def loss(self, model, batch):
        sys.exit(3)


def runs():
    return [Run(kind(), PRUNE, steps=6, seed=seed) for kind in (Ending, Tiny) for seed in (0, 1)]


def now():
    sys.exit("bye")


def without_data():
    try:
        open("/no/such/data")
    except OSError:
        sys.exit(3)
"""


@pytest.fixture(autouse=True)
def lab(tmp_path, monkeypatch):
    (tmp_path / "endinglab.py").write_text(LAB)
    (tmp_path / "scriptlab.py").write_text("raise SystemExit(5)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("fleet", [[], ["--fleet"]])
def test_a_sweep_goes_on_after_a_run_that_ends_the_program(monkeypatch, capsys, tmp_path, fleet):
    arguments = ["endinglab:runs", "--out", "runs", "--evaluations", 1, "--json"]
    assert openwork(monkeypatch, "sweep", *arguments, *fleet) == 1
    said = capsys.readouterr()
    assert sorted(json.loads(said.out)["runs"].values()) == ["failed", "failed", "finished", "finished"]
    assert "RuntimeError: this ends the program, with 3; raise an error instead" in " ".join(said.err.split())


@pytest.mark.parametrize(
    ("what", "place"),
    [
        ("endinglab:runs", "in loss"),
        ("endinglab:now", "in now"),
        ("endinglab:without_data", "in without_data"),
        ("scriptlab:runs", "scriptlab.py, line 1"),
    ],
)
def test_run_says_where_the_program_was_ended(monkeypatch, capsys, what, place):
    assert openwork(monkeypatch, "run", what, "--out", "runs", "--evaluations", 1) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "RuntimeError: this ends the program, with " in said
    assert place in said
