"""Run directories from before format 2, in which descriptions named openwork's values by their modules."""

import json

import pytest
import torch
from typer.testing import CliRunner

from openwork.cli import app
from openwork.study.results.store import read_results
from openwork.study.runs.execute import execute
from openwork.study.runs.live import restore
from openwork.study.runs.run import Run
from openwork.study.sweeps.sweep import Here, Options, sweep
from tests.processes import openwork
from tests.study.tinylab import PRUNE, Tiny

RUN = Run(Tiny(), PRUNE, steps=10)
OLD = {
    "type": "openwork.study.runs.run:Run",
    "seed": 0,
    "select": {"import": "openwork.core.selection:weight_matrices"},
    "steps": 10,
    "task": {"type": "tests.study.tinylab:Tiny"},
    "technique": None,
}


@pytest.fixture
def directory(tmp_path):
    """A finished run, and an interrupted one, as they were before."""
    execute(RUN, tmp_path, evaluations=1)
    finished, interrupted = tmp_path / "0123456789abcdef", tmp_path / "fedcba9876543210"
    (tmp_path / RUN.id).rename(finished)
    result = json.loads((finished / "result.json").read_text())
    (finished / "result.json").write_text(json.dumps({**result, "format": 1, "run": OLD}))
    state = torch.load(finished / "checkpoint.pt", weights_only=True)
    interrupted.mkdir()
    for folder in (finished, interrupted):
        (folder / "run.json").write_text(json.dumps(OLD, indent=2))
        torch.save({**state, "run": json.dumps(OLD)}, folder / "checkpoint.pt")
    return tmp_path


def content(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_results_of_another_format_say_what_to_do(directory):
    with pytest.raises(ValueError, match=r"has format 1, this openwork reads 2; use the openwork that wrote it, or "):
        read_results(directory)


def test_a_checkpoint_of_before_says_what_to_do(directory):
    for folder in directory.iterdir():
        with pytest.raises(ValueError, match=r"run:Run, a name from before format 2 .*; use the openwork that"):
            restore(folder, trusted=["tests"])


def test_nothing_is_trained_beside_runs_of_before(directory):
    before = content(directory)
    with pytest.raises(ValueError, match=r"is of a run from before format 2 .*; give another folder, or use the"):
        sweep([RUN], directory, Here(directory, Options()))
    (directory / "fedcba9876543210").rename(directory / RUN.id)
    with pytest.raises(ValueError, match=rf"{RUN.id} is of a run from before format 2"):
        execute(RUN, directory)
    (directory / RUN.id).rename(directory / "fedcba9876543210")
    assert content(directory) == before


@pytest.mark.parametrize("command", ["run", "sweep", "dry run", "eval"])
def test_a_command_says_it_in_one_sentence_and_changes_nothing(directory, command):
    before = content(directory)
    arguments = {
        "run": ["tests.study.tinylab:grid", "--out", str(directory)],
        "sweep": ["tests.study.tinylab:grid", "--out", str(directory)],
        "dry run": ["tests.study.tinylab:grid", "--out", str(directory), "--dry-run"],
        "eval": [str(directory / "0123456789abcdef"), "--trust", "tests"],
    }
    name = {"dry run": "sweep"}.get(command, command)
    ended = CliRunner().invoke(app, [name, *arguments.get(command, [str(directory)])])
    assert isinstance(ended.exception, ValueError)  # which `main` prints as one sentence, with exit code 2
    assert "use the openwork that wrote it" in str(ended.exception)
    assert "\n" not in str(ended.exception)
    assert content(directory) == before


@pytest.mark.parametrize(("command", "code"), [("results", 4), ("report", 2)])  # there is nothing to report
def test_a_command_over_a_folder_names_each_run_of_before(directory, command, code):
    before = content(directory)
    said = openwork(directory, command, str(directory), code=code).stderr
    assert said.count("use the openwork that wrote it") == len(list(directory.glob("*/result.json")))
    assert content(directory) == before
