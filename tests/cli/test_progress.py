"""How commands that train say how it is going, wait, and go on."""

import io
import json
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from openwork.cli import progress, training
from openwork.study.runs.claim import claim
from openwork.study.runs.run import Run
from openwork.study.sweeps.sweep import Options, Sweep
from tests.cli.folders import openwork
from tests.study.tinylab import Tiny


def test_a_pipe_gets_whole_lines_now_and_then(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    run = Run(Tiny(), None, steps=100, seed=3)
    with progress.steps_done(300) as show:
        for step in range(101):
            show(run, "run 2 of 3", step, 100)
            now[0] += 1
    assert capsys.readouterr().err.splitlines() == [
        "dense, seed 3 (run 2 of 3): step 1 of 100",
        "dense, seed 3 (run 2 of 3): step 31 of 100, 3 min left",  # 169 of 300 steps are left, at a second each
        "dense, seed 3 (run 2 of 3): step 61 of 100, 2 min left",
        "dense, seed 3 (run 2 of 3): step 91 of 100, 2 min left",
    ]


def test_run_into_a_pipe_writes_no_control_characters_and_its_name_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["tests.study.tinylab:grid", "seed=0,1", "steps=6", "--out", "runs", "--name", "first"]
    assert openwork(monkeypatch, "run", *arguments) == 0
    said = capsys.readouterr()
    assert not {"\r", "\x1b"} & {*said.out, *said.err}
    assert openwork(monkeypatch, "show", "runs/first") == 0
    shown = capsys.readouterr().out
    assert shown.count("finished, 6 of 6 steps") == len(list((tmp_path / "runs").glob("*/result.json")))
    assert openwork(monkeypatch, "run", *arguments[:1], "seed=7", "--out", "runs", "--name", "first") == 2
    assert "'first' is the name of other runs in runs" in capsys.readouterr().err
    assert len(list((tmp_path / "runs").glob("*/run.json"))) == shown.count("finished, ")


def test_a_name_grows_with_the_grid_of_its_sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["tests.study.tinylab:grid", "steps=3", "--out", "runs", "--name", "first"]
    for seeds, named in (("seed=0", 1), ("seed=0,1", 2), ("seed=1", 2)):
        assert openwork(monkeypatch, "sweep", *arguments, seeds) == 0
        said = capsys.readouterr().err
        assert ("more; `openwork show runs/first` has all" in said) is (seeds == "seed=1")
        assert openwork(monkeypatch, "show", "runs/first", "--json") == 0
        shown = json.loads(capsys.readouterr().out)["runs"]
        assert {run["seed"] for run in shown} == {*range(named)}


def test_a_sweep_with_wrong_options_keeps_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["tests.study.tinylab:grid", "--name", "first"]
    for wrong in (["--gpus", "1"], ["--device", "tpu"]):
        assert openwork(monkeypatch, "sweep", *arguments, *wrong) == 2
    assert list(tmp_path.iterdir()) == []


def test_run_waits_for_what_another_process_trains_and_says_so_once(tmp_path, monkeypatch, capsys):
    run, waits = Run(Tiny(), None, steps=3), []
    (tmp_path / run.id).mkdir()
    with ExitStack() as other:
        other.enter_context(claim(tmp_path / run.id))

        def sleep(seconds):
            waits.append(seconds)
            if len(waits) == 2:
                other.close()

        monkeypatch.setattr(training, "time", SimpleNamespace(sleep=sleep))
        assert training._executed(run, tmp_path, Options(), lambda step: None).finished
    said = capsys.readouterr().err
    assert said.startswith("waiting: process ")
    assert f"is training run {run.id}; Ctrl-C stops waiting, and the run goes on there" in said
    assert said.count("\n") == 1
    assert len(waits) == 2


def test_what_goes_on_from_a_checkpoint_is_said(tmp_path, capsys):
    run = Run(Tiny(), None, steps=40)
    training._execute([run], tmp_path, Options())
    (tmp_path / run.id / "result.json").unlink()  # as where the process died before it was written
    assert "goes on" not in capsys.readouterr().err
    training._execute([run], tmp_path, Options())
    assert f"run {run.id} goes on from step 40 of 40\n" in capsys.readouterr().err
    training._execute([run], tmp_path, Options())
    assert "goes on" not in capsys.readouterr().err


def test_a_sweep_says_what_goes_on_and_what_others_train(tmp_path, capsys):
    run = Run(Tiny(), None, steps=40)
    (tmp_path / run.id).mkdir()
    (tmp_path / run.id / "checkpoint.pt").touch()
    sweep = Sweep(tmp_path, {run.id: run})
    sweep.elsewhere.add(run.id)
    progress.Watch()(sweep)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "of 1 run left, 1 goes on from its checkpoint"
    assert second == "0 of 1 run done, 0 running, 1 trained by others"


def test_make_quickstart_installs_nothing_of_the_tests():
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    command = ["make", "--dry-run", "--always-make", f"PYTHON={sys.executable}"]
    root = Path(__file__).parents[2]

    def said(target):
        return subprocess.run([*command, target], cwd=root, capture_output=True, text=True, check=True).stdout

    assert '".[study]"' in said("quickstart")
    assert "dev" not in said("quickstart")
    assert '".[study,dev]"' in said("test")


def test_a_terminal_shows_brackets_in_names_as_they_are(monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=True, width=100, markup=False)
    monkeypatch.setattr(progress, "error_console", console)
    run = Run(Tiny(), None, steps=1, variant="[/x]")
    with progress.steps_done(1) as show:
        show(run, "run 1 of 1", 1, 0)
    assert "dense, [/x], seed 0 (run 1 of 1)" in console.file.getvalue()
