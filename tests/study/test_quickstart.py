"""The quickstart's command, with runs of milliseconds."""

import json

from typer.testing import CliRunner

from openwork.cli import app
from openwork.study.experiments import quickstart
from openwork.study.runs.run import Run
from tests.study.tinylab import PRUNE, Failing, Tiny


def test_a_failed_run_is_said_costs_the_exit_code_and_is_tried_again(tmp_path, monkeypatch):
    runs = [Run(Tiny(), PRUNE, steps=20, seed=seed) for seed in range(2)] + [Run(Failing(), None, steps=4)]
    monkeypatch.setattr(quickstart, "runs", lambda: runs)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["quickstart", "--out", "here"])
    assert result.exit_code == 1
    assert "the loss is wrong" in result.stderr
    assert "the same command tries again" in result.stderr
    assert "GradualMagnitude" in result.stdout
    (tmp_path / "repaired").touch()
    result = CliRunner().invoke(app, ["quickstart", "--out", "here", "--json"])
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["command"], {*found["runs"].values()}) == ("quickstart", {"finished"})
    assert "GradualMagnitude is the only technique measured" in found["answer"]
    assert found["report"] == str(tmp_path / "here" / "report" / "index.html")
