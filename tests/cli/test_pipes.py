"""Output that is closed early, as by `| head -1`: no traceback, and the exit code of a program that SIGPIPE ends."""

import os
import subprocess
import sys

import pytest
import torch

from tests.cli.folders import openwork

COMMAND = "from openwork.cli import main; main()"


def with_closed_output(*arguments: object, errors: bool = False) -> tuple[int, bytes]:
    """The exit code and what was said to standard error, which is closed, too, where ``errors`` says so."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", COMMAND, *map(str, arguments)]
    try:
        ended = subprocess.run(command, stdout=writing, stderr=writing if errors else subprocess.PIPE, timeout=240)
    finally:
        os.close(writing)
    return ended.returncode, ended.stderr or b""


@pytest.fixture
def folder(tmp_path):
    """A folder with a file of 300 weights, whose report is longer than a buffer of Python's."""
    torch.save({f"{name}.weight": torch.ones(4, 4) for name in range(300)}, tmp_path / "weights.pt")
    return tmp_path


@pytest.mark.parametrize("errors", [False, True], ids=["output", "output and errors"])
def test_a_command_whose_output_is_closed_ends_quietly(folder, errors):
    for arguments in (
        ("--version",),  # short, so that it is written when the command is done
        ("inspect", folder / "weights.pt", "--markdown"),  # by itself
        ("list", folder),  # by rich
        ("list", folder, "--json"),  # by a file of its own
        ("list", "--help"),  # by typer
    ):
        assert with_closed_output(*arguments, errors=errors) == (141, b""), arguments


def test_what_cannot_be_used_is_said_where_only_the_output_is_closed(folder):
    code, said = with_closed_output("inspect", folder / "other.pt")
    assert code == 2
    assert said.startswith(b"error: no checkpoint file ")


@pytest.mark.parametrize("option", [(), ("--json",)])
def test_an_output_without_space_is_said_with_its_cure(folder, option):
    with open("/dev/full", "w") as full:
        arguments = [sys.executable, "-c", COMMAND, "list", str(folder), *option]
        ended = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, timeout=240)
    assert ended.returncode == 1
    said = b"error: cannot write the output: no space left on device; make room, or let it go elsewhere\n"
    assert ended.stderr == said


def test_a_pipe_to_another_program_is_an_error(tmp_path, monkeypatch, capfd):
    (tmp_path / "connected.py").write_text("def runs(): raise BrokenPipeError(32, 'the server of the data is gone')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert openwork(monkeypatch, "run", "connected:runs", "--out", "runs") == 1
    assert capfd.readouterr().err.startswith("error: [Errno 32] the server of the data is gone (")
