"""`openwork sweep`: what is refused before anything changes, and what is said of failures."""

import json

import pytest

from tests.cli.folders import openwork

MIXED = "tests.study.tinylab:mixed"


@pytest.mark.parametrize(
    "wrong",
    [
        ["--device", "nonsense"],
        ["--device", "nonsense", "--dry-run"],
        ["--name", "a/b", "--dry-run"],
        ["--cpus", "2"],
        ["--ray", "local", "--device", "cpu", "--gpus", "1"],
    ],
)
def test_a_wrong_option_leaves_no_name_and_no_folder(tmp_path, monkeypatch, capsys, wrong):
    assert openwork(monkeypatch, "sweep", MIXED, "--out", tmp_path / "new", "--name", "first", *wrong) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "new").exists()


def test_with_json_the_reasons_of_failures_go_to_standard_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert openwork(monkeypatch, "sweep", MIXED, "--out", "runs", "--json") == 1
    said = capsys.readouterr()
    assert sorted(json.loads(said.out)["runs"].values()) == ["diverged", *3 * ["failed"], *2 * ["finished"]]
    assert "1 failed: RuntimeError: the loss is wrong" in said.err
    assert "it needs run" in said.err
