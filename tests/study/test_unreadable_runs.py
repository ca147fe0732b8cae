"""One run that cannot be read, or is not what its folder says, does not hide the others."""

import json
import math
import shutil
from pathlib import Path

import pytest

from openwork.study.results.result import identity
from openwork.study.results.store import read_result, read_results
from openwork.study.runs.execute import execute
from openwork.study.runs.run import Run
from openwork.study.sweeps.outcome import known_outcome
from openwork.study.sweeps.price import prices
from openwork.study.sweeps.sweep import Here, Options, sweep
from tests.processes import openwork
from tests.study.studies import row, study
from tests.study.tinylab import PRUNE, Tiny

BAD = row(seed=7)
BROKEN = {
    "empty": b"",
    "truncated": json.dumps(BAD).encode()[:200],
    "no JSON": b"{",
    "no UTF-8": b"\xff\xfe",
    "nested": b"[" * 100_000,
    "a list": b"[]",
    "another format": json.dumps({**BAD, "format": 7}).encode(),
    "foreign": b'{"accuracy": 0.9}',
    "a metric's key that is a number": json.dumps({**BAD, "metric": {"key": 5}}).encode(),
    "a cost that is text": json.dumps({**BAD, "cost": {"seconds": 1, "step_ms": "fast"}}).encode(),
    "NaN": json.dumps({**BAD, "after": {"accuracy": float("nan")}}).encode(),
    "NaN of a metric without bounds": json.dumps({**BAD, "metric": {"key": "m"}, "after": {"m": math.nan}}).encode(),
    "infinity of one": json.dumps({**BAD, "metric": {"key": "m"}, "after": {"m": -math.inf}}).encode(),
    "more than a float holds": json.dumps({**BAD, "metric": {"key": "m"}, "after": {"m": 10**400}}).encode(),
    "NaN of another metric": json.dumps({**BAD, "after": {"accuracy": 0.5, "loss": math.nan}}).encode(),
    "NaN before": json.dumps({**BAD, "before": {"accuracy": math.nan}}).encode(),
    "infinite seconds": json.dumps({**BAD, "cost": {"seconds": math.inf}}).encode(),
}


def directory(tmp_path, content):
    study(tmp_path, [row(), row(seed=1), BAD])
    (tmp_path / BAD["id"] / "result.json").write_bytes(content)
    (tmp_path / "no-run").mkdir()
    (tmp_path / "a-file").touch()
    return tmp_path


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_result_is_left_out_and_said(tmp_path, kind):
    folder = directory(tmp_path, BROKEN[kind])
    with pytest.raises(ValueError, match=BAD["id"]):
        read_results(folder)
    problems = []
    assert [result.seed for result in read_results(folder, problems=problems)] == [0, 1]
    (sentence,) = problems
    assert f"{folder / BAD['id'] / 'result.json'}" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("command", ["results", "report"])
def test_the_commands_show_the_others_and_end_with_4(tmp_path, command):
    folder = directory(tmp_path, b"{")
    (folder / row()["id"] / "thresholds.json").write_text("[]")  # of a run that is there all the same
    answer = openwork(tmp_path, command, str(folder), code=4)
    said = " ".join(answer.stderr.split())
    assert f"left out: {folder / BAD['id'] / 'result.json'} cannot be read" in said
    assert f"{folder / row()['id'] / 'thresholds.json'} cannot be read (no list of thresholds)" in said
    assert "2 rows" in answer.stdout if command == "results" else (folder / "report" / "index.html").exists()
    openwork(tmp_path, command, str(folder), "--json", code=4)


def test_a_sweep_names_no_file_that_is_not_there_and_goes_on_from_damaged_rows(tmp_path):
    (tmp_path / "tinylab.py").write_text((Path(__file__).parent / "tinylab.py").read_text())
    arguments = ["sweep", "tinylab:grid", "seed=0", "--out", "runs", "--evaluations", "2"]
    openwork(tmp_path, *arguments)
    one, other = sorted((tmp_path / "runs").glob("*/result.json"))
    one.write_text("")
    other.unlink()
    (other.parent / "metrics.jsonl").write_text('{"step": "x"}\n')
    said = " ".join(openwork(tmp_path, *arguments, code=1).stderr.split())
    assert "result.json cannot be read" in said
    assert "failed.json" not in said
    assert other.exists()


def test_a_damaged_failure_does_not_hide_the_results(tmp_path):
    folder = study(tmp_path, [row()])
    (folder / "aaaa000000000000").mkdir()
    (folder / "aaaa000000000000" / "failed.json").write_text("{")
    answer = openwork(tmp_path, "results", str(folder), code=4)
    assert "failed.json cannot be read" in " ".join(answer.stderr.split())
    assert "1 row" in answer.stdout


def test_a_result_of_a_module_that_is_not_here_is_a_result(tmp_path):
    one = row()
    one["run"] = {**one["run"], "task": {"type": "nowhere.lab:Task"}}
    study(tmp_path, [one])
    openwork(tmp_path, "results", str(tmp_path))
    openwork(tmp_path, "report", str(tmp_path))


def test_nothing_but_broken_runs_is_no_report(tmp_path):
    study(tmp_path, [row()])
    (tmp_path / row()["id"] / "result.json").write_text("{")
    answer = openwork(tmp_path, "report", str(tmp_path), code=2)
    assert "left out: " in answer.stderr
    assert "error: no finished run in" in answer.stderr


def test_pictures_of_the_runs_that_can_be_read(tmp_path):
    runs = [Run(Tiny(), PRUNE, steps=10, seed=seed) for seed in (0, 1)]
    folders = [tmp_path / execute(run, tmp_path).id for run in runs]
    (folders[1] / "metrics.jsonl").write_text("{")
    answer = openwork(tmp_path, "pictures", *map(str, folders), "--out", str(tmp_path / "out"), code=4)
    assert f"left out: {folders[1] / 'metrics.jsonl'} cannot be read" in " ".join(answer.stderr.split())
    assert "layers.png" in answer.stdout


def test_a_sweep_with_a_broken_result_trains_the_others(tmp_path):
    runs = [Run(Tiny(), PRUNE, steps=10, seed=seed) for seed in (0, 1, 2)]
    path = tmp_path / execute(runs[1], tmp_path).id / "result.json"
    path.write_text("{")
    (price,) = prices(runs, tmp_path)
    assert price.states == {"failed": 1, "new": 2}
    ended = sweep(runs, tmp_path, Here(tmp_path, Options()))
    assert [ended.outcomes[run.id].state for run in runs] == ["finished", "failed", "finished"]
    assert f"{path} cannot be read" in ended.outcomes[runs[1].id].reason
    assert path.read_text() == "{"  # openwork deletes nothing
    ended = sweep(runs, tmp_path, Here(tmp_path, Options()), retry_failed=True)
    assert ended.outcomes[runs[1].id].state == "failed"


def edited(**changes):
    return {**row(), **changes}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            edited(run={**row()["run"], "steps": 11}),
            "its run hashes to .* and its id is .*, so that one of them was edi",
        ),
        (edited(id="0" * 16), "its run hashes to .* and its id is 0000000000000000, so that one of them was edited"),
        (edited(seed=3), "its seed is 3 and its run's 0, so that one of them was edited"),
        (edited(step=9), "it finished at step 9 and its run has 10 steps, so that one was edited"),
    ],
)
def test_an_edited_result_is_refused(tmp_path, content, sentence):
    study(tmp_path, [row()])
    path = tmp_path / row()["id"] / "result.json"
    path.write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=f"is not the result of that run: {sentence}.*; delete that folder and run the"
    ):
        read_result(path)


def test_a_moved_directory_is_refused_by_every_command(tmp_path):
    run = Run(Tiny(), PRUNE, steps=10)
    moved, other = execute(run, tmp_path).id, Run(Tiny(), PRUNE, steps=10, seed=1).id
    shutil.move(tmp_path / moved, tmp_path / other)
    sentence = f"its id is {moved} and its folder {other}, so that it was moved or copied"
    for use in (
        lambda: read_result(tmp_path / other / "result.json"),
        lambda: execute(Run(Tiny(), PRUNE, steps=10, seed=1), tmp_path),
    ):
        with pytest.raises(ValueError, match=sentence):
            use()
    outcome = known_outcome(tmp_path / other)
    assert (outcome.state, sentence in outcome.reason) == ("failed", True)


def test_a_result_is_read_where_its_folder_is_the_current_one(tmp_path, monkeypatch):
    run = Run(Tiny(), PRUNE, steps=10)
    result = execute(run, tmp_path)
    monkeypatch.chdir(tmp_path / run.id)
    assert read_result(Path("result.json")) == result
    assert identity(result.run) == run.id == result.id
