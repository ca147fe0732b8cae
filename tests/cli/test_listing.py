"""Runs by the beginning of an id or by a name: list, show, and every command that takes one."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from openwork.cli.common import found_run
from openwork.cli.complete import complete_experiments, complete_runs
from openwork.study.results.folders import (
    RunFolder,
    check_name,
    find_runs,
    read_folders,
    read_names,
    short_ids,
    write_name,
)
from openwork.study.runs.claim import claim
from tests.cli.folders import openwork
from tests.study.studies import described, diverged, row, study


def begun(folder: Path, id: str, **files: object) -> Path:
    """A run's directory without a result."""
    place = folder / id
    place.mkdir(parents=True)
    (place / "run.json").write_text(json.dumps(described("L0", "a", 3, "digits")))
    for name, content in files.items():
        (place / name.replace("_", ".")).write_text(content if isinstance(content, str) else json.dumps(content))
    return place


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A folder with a run in each state, in which the test works."""
    folder = study(tmp_path / "openwork-runs", [row(), diverged()])
    begun(folder, "aaaa000000000000", metrics_jsonl={"step": 4})
    begun(folder, "aaab000000000000", failed_json={"error": "ValueError: no", "attempt": 1})
    begun(folder, "bbbb000000000000")
    # Its process was killed, and has left the file; its number is another's by now.
    begun(folder, "cccc000000000000", lock=f"process {os.getpid()} on {socket.gethostname()}\n")
    (folder / "report").mkdir()
    monkeypatch.chdir(tmp_path)
    with claim(folder / "bbbb000000000000"):
        yield folder


def states(folder: Path) -> dict[str, RunFolder]:
    return {run.id[:4]: run for run in read_folders(folder)}


def test_each_state_is_told_from_the_files(runs):
    found = states(runs)
    assert [found[id].state for id in ("aaaa", "aaab", "bbbb", "cccc")] == [
        "interrupted", "failed", "training", "interrupted"
    ]  # fmt: skip
    assert sorted(run.state for run in found.values() if run.result) == ["diverged", "finished"]
    assert (found["aaaa"].step, found["aaaa"].steps, found["aaaa"].technique, found["aaaa"].seed) == (4, 10, "L0", 3)
    assert found["aaab"].reason == "ValueError: no"
    begun(runs, "dddd000000000000", run_json={})
    (runs / "dddd000000000000" / "lock").write_text("process 1 on another-machine\n")
    assert states(runs)["dddd"].state == "training"  # who is there is believed


def test_list_prints_a_line_for_each_run_and_json_for_machines(runs, monkeypatch, capsys):
    assert openwork(monkeypatch, "list") == 0
    printed = capsys.readouterr().out
    assert "6 runs: " in printed
    assert "97.00%" in printed
    assert "4 of 10" in printed
    assert openwork(monkeypatch, "list", runs, "--state", "failed", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["command"]) == (1, "list")
    (one,) = found["runs"]
    assert (one["id"], one["short"], one["reason"]) == ("aaab000000000000", "aaab00", "ValueError: no")


@pytest.mark.parametrize("command", [("results", "--csv", "rows.csv"), ("watch",), ("report",)])
def test_a_folder_without_runs_has_no_results(runs, monkeypatch, capsys, command):
    command, *options = command
    (runs.parent / "empty" / "notes").mkdir(parents=True)
    for folders in (["empty"], [runs, "empty"]):
        assert openwork(monkeypatch, command, *folders, *options) == 2
        said = capsys.readouterr()
        run = "no finished run" if command == "report" else "no run"
        assert said.err == f"error: {run} in empty; train some with `openwork run` or give another folder\n"
        assert said.out == ""
    assert {path.name for path in runs.parent.iterdir()} == {runs.name, "empty"}


@pytest.mark.parametrize("command", ["results", "watch", "report", "list"])
def test_the_directory_of_a_run_is_no_folder_of_runs(runs, monkeypatch, capsys, command):
    assert openwork(monkeypatch, command, runs / row()["id"]) == 2
    assert "is the directory of one run; give the folder around it" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["results", "watch", "report", "list"])
def test_folders_of_other_programs_are_no_runs(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    folder = study(tmp_path / "runs", [row()])
    for number, (name, content) in enumerate(
        [
            ("run.json", {"name": "theirs", "type": "Run"}),
            ("run.json", [1]),
            ("result.json", {"score": 1}),
            ("result.json", "text"),
        ]
    ):
        (folder / f"theirs{number}").mkdir()
        (folder / f"theirs{number}" / name).write_text(json.dumps(content))
    assert openwork(monkeypatch, command, folder, "--json") == 0
    said = capsys.readouterr()
    assert not said.err
    found = json.loads(said.out)
    if command in ("list", "results"):
        assert [run["id"] for run in found["runs" if command == "list" else "rows"]] == [row()["id"]]
    assert openwork(monkeypatch, command, folder / "theirs0") == (0 if command == "list" else 2)


@pytest.mark.parametrize("command", ["show", "report", "results"])
def test_a_copy_of_a_run_under_another_name_is_still_a_run(tmp_path, monkeypatch, capsys, command):
    folder = study(tmp_path / "runs", [row()])
    shutil.move(folder / row()["id"], folder / "best")
    assert openwork(monkeypatch, command, folder / "best" if command == "show" else folder) != 0
    assert "its folder best, so that it was moved or copied" in " ".join(capsys.readouterr().err.split())


def test_a_folder_of_runs_may_hold_a_run_json_of_another_program(tmp_path, monkeypatch):
    (tmp_path / "run.json").write_text('{"name": "theirs"}')
    assert openwork(monkeypatch, "sweep", "openwork.study.experiments.mnist:dense", "--dry-run", "--out", tmp_path) == 0


@pytest.mark.parametrize(
    "described", [[], {"technique": "L0"}, {"steps": "10"}, {"seed": [1]}, {"variant": 1}, {"origin": "x"}]
)
def test_a_description_that_is_none_is_named(tmp_path, monkeypatch, capsys, described):
    begun(tmp_path, "aaaa000000000000", run_json=described)
    begun(tmp_path, "bbbb000000000000")
    assert openwork(monkeypatch, "list", tmp_path) == 4
    said = capsys.readouterr()
    assert "1 run: " in said.out
    assert "aaaa000000000000/run.json is not the description of a run" in said.err.replace("\n", "")


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_nothing_is_trained_in_the_directory_of_a_run(runs, monkeypatch, capsys, command):
    place = runs / row()["id"]
    before = sorted(place.iterdir())
    assert openwork(monkeypatch, command, "openwork.study.experiments.mnist:dense", "--out", place) == 2
    assert "is the directory of one run; give the folder around it" in capsys.readouterr().err
    assert sorted(place.iterdir()) == before


def test_a_folder_whose_runs_have_no_result_yet_has_no_row(runs, monkeypatch, capsys):
    for path in runs.glob("*/result.json"):
        shutil.rmtree(path.parent)
    assert openwork(monkeypatch, "results", runs) == 0
    said = capsys.readouterr()
    assert "0 rows" in said.out
    assert "without a result: 1 failed" in said.err


def test_a_damaged_run_is_named_and_the_others_are_listed(runs, monkeypatch, capsys):
    (runs / "aaab000000000000" / "failed.json").write_text("{")
    assert openwork(monkeypatch, "list") == 4
    said = capsys.readouterr()
    assert "5 runs: " in said.out
    assert "aaab000000000000/failed.json cannot be read" in said.err.replace("\n", "")


def test_damaged_names_cost_no_run(runs, monkeypatch, capsys):
    (runs / "names.json").write_text("{")
    assert openwork(monkeypatch, "list") == 2
    said = capsys.readouterr().err.replace("\n", " ")
    assert "names.json cannot be read" in said
    assert "delete that file: the runs stay" in said


def test_techniques_of_one_name_that_are_two_classes_are_two_in_list_and_show(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "runs"
    rows = [row("L0", setting) for setting in ("a", "b")]
    rows[1]["run"]["technique"]["type"] = "mine:L0"
    begun(study(folder, rows), "aaaa000000000000")  # without a result
    run = described("L0", "a", 3, "digits")
    run["technique"]["type"] = "other.module:L0"
    begun(folder, "bbbb000000000000", run_json=run)
    names = ["L0", "L0", "mine.L0", "other.module.L0"]
    assert openwork(monkeypatch, "list", folder, "--json") == 0
    assert sorted(run["technique"] for run in json.loads(capsys.readouterr().out)["runs"]) == names
    assert openwork(monkeypatch, "show", folder / "aaaa", folder / "bbbb", "--json") == 0
    assert [run["technique"] for run in json.loads(capsys.readouterr().out)["runs"]] == ["L0", "other.module.L0"]
    assert openwork(monkeypatch, "list", folder) == 0
    assert "other.module.L0" in capsys.readouterr().out


def test_show_takes_the_beginning_of_an_id_a_name_or_a_directory(runs, monkeypatch, capsys):
    id = row()["id"]
    write_name("first", [id], runs)
    for text in (id[:5], "first", "openwork-runs/first", runs / id):
        assert openwork(monkeypatch, "show", text) == 0
        printed = capsys.readouterr().out
        assert id in printed
        assert "97.00%, on the test set" in printed
        assert "fc.weight" in printed
    assert openwork(monkeypatch, "show", "first", "aaaa", "--json") == 0
    one, other = json.loads(capsys.readouterr().out)["runs"]
    assert (one["id"], one["names"], one["result"]["id"]) == (id, ["first"], id)
    assert (other["state"], other["result"], other["run"]["steps"]) == ("interrupted", None, 10)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("aaa", "'aaa' begins 2 ids in openwork-runs: aaaa000000000000, aaab000000000000; give more"),
        ("eeee", "there is no run eeee in openwork-runs; `openwork list openwork-runs` shows"),
        ("elsewhere/aaaa", "there is no run aaaa in elsewhere; `openwork list elsewhere`"),
    ],
)
def test_what_means_no_run_or_several_is_one_sentence(runs, monkeypatch, capsys, text, sentence):
    assert openwork(monkeypatch, "show", text) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert sentence in said.replace("\n", " ")


def test_a_command_for_one_run_refuses_the_name_of_several(runs):
    write_name("both", ["aaaa000000000000", "bbbb000000000000"], runs)
    assert found_run(Path("aaaa")) == runs.relative_to(runs.parent) / "aaaa000000000000"
    assert found_run(Path("model.safetensors")) == Path("model.safetensors")
    with pytest.raises(ValueError, match="'both' is the name of 2 runs, and one is needed"):
        found_run(Path("both"))


def test_a_name_grows_with_its_runs_and_never_forgets_one(tmp_path):
    assert write_name("first", ["a1", "b2"], tmp_path) == 0
    for more, others, names in [
        (["b2", "a1"], 0, ["a1", "b2"]),
        (["a1"], 1, ["a1", "b2"]),  # a part of them, trained again
        (["a1", "b2", "c3"], 0, ["a1", "b2", "c3"]),  # a larger grid
        (["c3", "d4"], 2, ["a1", "b2", "c3", "d4"]),
    ]:
        check_name("first", more, tmp_path)
        assert write_name("first", more, tmp_path) == others
        assert read_names(tmp_path) == {"first": names}


def test_a_name_is_not_given_to_runs_of_which_it_has_none(tmp_path):
    write_name("first", ["a1", "b2"], tmp_path)
    with pytest.raises(ValueError, match=r"'first' is the name of other runs in .*, a1 first; give another, or add to"):
        check_name("first", ["c3"], tmp_path)
    for name in ("3f2a", "a/b", "", "-x", ".hidden"):
        with pytest.raises(ValueError, match="a name for runs has letters"):
            check_name(name, [], tmp_path)
    assert find_runs(tmp_path / "first", Path("openwork-runs")) == [tmp_path / "a1", tmp_path / "b2"]


def test_short_ids_are_as_long_as_they_must_be():
    assert short_ids(["aaaaaaaaa1", "aaaaaaaab2", "bbbbbbbbbb"]) == {
        "aaaaaaaaa1": "aaaaaaaaa", "aaaaaaaab2": "aaaaaaaab", "bbbbbbbbbb": "bbbbbb"
    }  # fmt: skip
    assert short_ids([]) == {}


def test_a_shell_completes_runs_names_and_experiments(runs, tmp_path):
    write_name("first", ["aaaa000000000000"], runs)
    assert complete_runs("aa") == ["aaaa000000000000", "aaab000000000000"]
    assert complete_runs("openwork-runs/f") == ["openwork-runs/first"]
    assert complete_runs("nowhere/") == []
    (tmp_path / "mine.py").write_text(
        "def runs() -> list[Run]: ...\ndef of(x) -> Run: ...\ndef _hidden() -> Run: ...\ndef text() -> str: ...\n"
    )
    (tmp_path / "broken.py").write_text("def (")
    assert complete_experiments("m") == ["mine:runs"]
    assert "openwork.study.experiments.mnist:table" in complete_experiments("openwork.study.experiments.mnist:")


def test_another_file_or_folder_of_that_name_is_no_run(runs, monkeypatch, capsys):
    write_name("first", ["aaaa000000000000"], runs)
    Path("first").mkdir()
    Path("notes.txt").touch()
    assert openwork(monkeypatch, "show", "first") == 0  # the run of that name, and not the empty folder
    assert "aaaa000000000000" in capsys.readouterr().out
    for text, said in [
        ("openwork-runs", "openwork-runs is no run's directory; `openwork list openwork-runs` shows the runs in it"),
        (".", ". is no run's directory"),
        ("notes.txt", "notes.txt is no run's directory"),
        ("openwork-runs/names.json", "openwork-runs/names.json is no run's directory"),
    ]:
        assert openwork(monkeypatch, "show", text) == 2
        assert said in capsys.readouterr().err.replace("\n", " ")
    assert found_run(Path("first")) == Path("first")  # where a file of weights will do, what exists is meant


def test_who_only_looks_at_runs_does_not_wait_for_torch(runs):
    program = (
        "import sys\nfrom openwork.cli import app\nfrom openwork.cli.complete import complete_runs\n"
        "for command in (['list'], ['show', 'aaaa'], ['results', 'openwork-runs', '--json']):\n"
        "    app(command, standalone_mode=False)\n"
        "assert complete_runs('aaaa') == ['aaaa000000000000']\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_a_folder_that_is_given_twice_is_listed_once(runs, monkeypatch, capsys):
    assert openwork(monkeypatch, "list", "openwork-runs", runs, "./openwork-runs/", "--json") == 0
    listed = [run["id"] for run in json.loads(capsys.readouterr().out)["runs"]]
    assert len(listed) == len({*listed}) > 1


def test_a_run_that_is_meant_twice_is_drawn_once(runs, monkeypatch):
    meant = []
    monkeypatch.setattr(
        "openwork.study.report.pictures.write_pictures", lambda paths, *_, **__: meant.extend(paths) or ([], [])
    )
    assert openwork(monkeypatch, "pictures", "aaaa", runs / "aaaa000000000000") == 0
    assert [path.name for path in meant] == ["aaaa000000000000"]


def test_a_run_that_is_meant_twice_is_shown_once(runs, monkeypatch, capsys):
    assert (
        openwork(monkeypatch, "show", "aaaa", "openwork-runs/aaaa000000000000", runs / "aaaa000000000000", "--json")
        == 0
    )
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 1


def test_long_settings_leave_ids_and_states_whole(runs, monkeypatch, capsys):
    (runs / "aaab000000000000" / "failed.json").write_text(json.dumps({"error": "no " * 100, "attempt": 1}))
    assert openwork(monkeypatch, "list") == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("aaab00", "aaaa00", "interrupted", "technique", "no no"))
    assert max(map(len, printed.splitlines())) == 120


def test_a_run_without_a_checkpoint_is_said_to_be_one(runs, monkeypatch, capsys):
    for text in ("aaab", "aaaa", diverged()["id"]):
        assert openwork(monkeypatch, "eval", text) == 2
        assert "checkpoint.pt: the run diverged, failed or has just begun" in capsys.readouterr().err.replace("\n", " ")


def test_brackets_in_what_users_write_are_no_markup(runs, monkeypatch, capsys):
    for id, error in (
        ("aaab000000000000", "OSError: [Errno 2] no [/nowhere/x]"),
        ("aaaa000000000000", "ValueError: [red]"),
    ):
        (runs / id / "failed.json").write_text(json.dumps({"error": error, "attempt": 1}))
    assert openwork(monkeypatch, "list") == 0
    printed = capsys.readouterr().out
    assert "[Errno 2] no [/nowhere/x]" in printed
    assert "ValueError: [red]" in printed
