"""The quickstart's command, with runs of milliseconds."""

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
    assert CliRunner().invoke(app, ["quickstart", "--out", "here"]).exit_code == 0
