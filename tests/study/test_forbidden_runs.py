"""Folders that nobody may look into: lost+found hides no run, and a run whose owner alone may read it is said."""

import errno
import json
from pathlib import Path

import pytest

from openwork.study.results.folders import read_folders
from openwork.study.results.history import read_metrics
from openwork.study.results.store import read_failure, read_results, unfinished
from openwork.study.results.thresholds import read_thresholds
from openwork.study.runs.execute import execute
from openwork.study.runs.run import Run
from openwork.study.sweeps.price import prices
from tests.cli.folders import openwork
from tests.study.studies import row, study
from tests.study.tinylab import PRUNE, Tiny

DEEP = "[" * 100_000


def forbid(monkeypatch, folder):
    """Makes the files of a folder what they are to others than its owner, also where the tests are root's."""
    for name in ("stat", "open"):
        real = getattr(Path, name)

        def refuse(path, *arguments, real=real, **options):
            if folder in path.parents:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return real(path, *arguments, **options)

        monkeypatch.setattr(Path, name, refuse)


def test_a_folder_of_others_hides_no_run(tmp_path, monkeypatch, capsys):
    folder = study(tmp_path / "runs", [row()])
    (folder / "lost+found").mkdir()
    (folder / "loop").symlink_to("loop")
    forbid(monkeypatch, folder / "lost+found")
    for command in ("list", "results", "report"):
        assert openwork(monkeypatch, command, folder) == 0
        assert capsys.readouterr().err == ""


def test_a_run_of_others_is_named_and_nobody_is_told_to_delete_it(tmp_path, monkeypatch, capsys):
    folder = study(tmp_path / "runs", [row(), row(seed=1)])
    closed = folder / row()["id"]
    forbid(monkeypatch, closed)
    assert unfinished(folder) == []
    for command in ("list", "results", "report", "watch"):
        assert openwork(monkeypatch, command, folder, *(["--out", tmp_path / "x"] if command == "watch" else [])) == 4
        (said,) = capsys.readouterr().err.splitlines()
        file = "run.json" if command in ("list", "watch") else "result.json"
        assert said == f"left out: {closed / file} cannot be read (permission denied); make it readable"
    problems: list[str] = []
    assert [run.seed for run in read_folders(folder, problems=problems)] == [1]
    assert [run.seed for run in read_results(folder, problems=problems)] == [1]
    assert len(problems) == 2


@pytest.mark.parametrize(
    ("read", "name"),
    [(read_metrics, "metrics.jsonl"), (read_failure, "failed.json"), (read_thresholds, "thresholds.json"),
     (lambda folder: [*read_folders(folder.parent)], "run.json"),
     (lambda folder: [*read_folders(folder.parent)], "../names.json")],
)  # fmt: skip
def test_what_is_nested_too_deeply_is_named(tmp_path, read, name):
    folder = study(tmp_path / "runs", [row()]) / row()["id"]
    (folder / "run.json").write_text(json.dumps(row()["run"]))
    (folder / name).write_text(DEEP)
    with pytest.raises(ValueError, match=f"{Path(name).name} cannot be read .*; delete "):
        read(folder)


def test_a_run_without_a_checkpoint_does_not_go_on(tmp_path, monkeypatch, capsys):
    run = Run(Tiny(), PRUNE, steps=10)
    folder = tmp_path / execute(run, tmp_path).id
    (folder / "result.json").unlink()
    assert prices([run], tmp_path)[0].states == {"interrupted": 1}
    (folder / "checkpoint.pt").unlink()  # as the sentence about a damaged one advises
    (price,) = prices([run], tmp_path)
    assert (price.states, price.steps) == ({"new": 1}, 10)
    monkeypatch.setattr("openwork.cli.training.runs_of", lambda *_: [run])
    assert openwork(monkeypatch, "run", "tests.study.tinylab:grid", "--out", tmp_path) == 0
    assert "goes on" not in capsys.readouterr().err
