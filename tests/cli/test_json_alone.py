"""With `--json` standard output has JSON and nothing else, and how a command ended is its exit code."""

import json
import os
import signal
import sys
from types import SimpleNamespace

import pytest
import typer

from openwork.cli.common import going_on
from openwork.study.sweeps.sweep import Here, Options
from tests import processes
from tests.cli.folders import openwork, printed

TALKING = """
from dataclasses import dataclass
from tests.study.tinylab import PRUNE, Run, Tiny

@dataclass(frozen=True)
class Talking(Tiny):
    def loss(self, model, batch):
        print("a user's own words")
        return super().loss(model, batch)

def runs():
    return [Run(Talking(), PRUNE, steps=4, seed=seed) for seed in range(2)]
"""


@pytest.fixture
def talking(tmp_path, monkeypatch):
    (tmp_path / "talking.py").write_text(TALKING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "talking", raising=False)


@pytest.mark.parametrize("command", [["run"], ["sweep"], ["sweep", "--fleet"]])
def test_what_a_task_prints_goes_elsewhere_with_json(command, talking, monkeypatch, capsys):
    assert openwork(monkeypatch, *command, "talking:runs", "--evaluations", 1, "--out", "json", "--json") == 0
    said = capsys.readouterr()
    assert len(json.loads(said.out)["runs"]) == 2
    assert "a user's own words" in said.err
    assert openwork(monkeypatch, *command, "talking:runs", "--evaluations", 1, "--out", "text") == 0
    assert "a user's own words" in capsys.readouterr().out


STARTING = """
import os, subprocess, sys
from dataclasses import dataclass
from tests.study.tinylab import PRUNE, Run, Tiny

kept = sys.stdout

@dataclass(frozen=True)
class Starting(Tiny):
    def loss(self, model, batch):
        subprocess.run(["echo", "a program's own words"], check=True)
        os.write(1, b"a library's own words")
        kept.write("a logger's own words")
        return super().loss(model, batch)

def runs():
    return [Run(Starting(), PRUNE, steps=4, seed=seed) for seed in range(2)]
"""


@pytest.mark.parametrize("command", [["run"], ["sweep"], ["sweep", "--fleet"]])
def test_what_programs_of_a_task_print_goes_elsewhere_with_json(command, tmp_path):
    (tmp_path / "starting.py").write_text(STARTING)
    options = ["starting:runs", "--evaluations", "1", "--out", "json", "--json"]
    said = processes.openwork(tmp_path, *command, *options)
    assert len(json.loads(said.stdout)["runs"]) == 2
    for who in ("a program", "a library", "a logger"):
        assert f"{who}'s own words" in said.stderr
    said = processes.openwork(tmp_path, *command, *options[:-2], "text")
    for who in ("a program", "a library", "a logger"):
        assert f"{who}'s own words" in said.stdout


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_what_ray_prints_goes_to_standard_error(options, tmp_path, monkeypatch, capsys):
    class Ray(Here):
        def __init__(self, address, out, options, **settings):
            super().__init__(out, Options(evaluations=1))

        def __enter__(self):
            return self

        def __exit__(self, *_: object) -> None:
            sys.stdout.write("(raylet) ended\n")

        def wait(self):
            sys.stdout.write("(raylet) A worker died\n")
            return super().wait()

    monkeypatch.setitem(sys.modules, "openwork.study.sweeps.cluster", SimpleNamespace(Ray=Ray))
    command = ["sweep", "tests.study.tinylab:grid", "--ray", "local", "--out", tmp_path]
    assert openwork(monkeypatch, *command, *options) == 0
    said = capsys.readouterr()
    assert "(raylet)" not in said.out
    assert "(raylet) A worker died" in said.err
    assert "(raylet) ended" in said.err


def test_json_goes_to_standard_output_again_after_an_error(tmp_path, monkeypatch, capsys):
    assert openwork(monkeypatch, "list", tmp_path / "nowhere", "--json") == 2
    capsys.readouterr()
    assert openwork(monkeypatch, "list", tmp_path, "--json") == 0
    assert printed(capsys)["runs"] == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_has_its_exit_code_whatever_what_waits_makes_of_it(number, code, tmp_path):
    # Whatever started the tests may ignore it, as a shell does for what it starts in the background.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def wait() -> None:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None  # as Ray's own code raises it anew

    try:
        with pytest.raises(typer.Exit) as stopped, going_on(tmp_path):
            wait()
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.value.exit_code == code
