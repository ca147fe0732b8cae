"""`openwork inspect` as a user calls it; what a run's own files give is in tests/study/test_cli.py."""

import argparse
import json
import sys

import pytest
import torch

import openwork as ow
from openwork.cli import main
from tests.helpers import conv_net


def inspect(monkeypatch, *arguments: object) -> int:
    """The exit code."""
    monkeypatch.setattr(sys, "argv", ["openwork", "inspect", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


@pytest.fixture
def folder(tmp_path):
    """A Hugging Face folder with one torch file."""
    torch.save(conv_net().state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_it_prints_what_the_report_prints(monkeypatch, capsys, folder):
    report = ow.report(folder)
    assert inspect(monkeypatch, folder) == 0
    assert capsys.readouterr().out == f"{folder}\n{report}\n"
    assert inspect(monkeypatch, folder, "--markdown") == 0
    assert capsys.readouterr().out == report.to_markdown() + "\n"
    assert inspect(monkeypatch, folder, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "format": 1, "command": "inspect", "path": str(folder), **report.to_dict()
    }  # fmt: skip


def test_files_with_objects_of_other_programs_are_read(monkeypatch, capsys, tmp_path):
    torch.save({"state_dict": conv_net().state_dict(), "args": argparse.Namespace(lr=0.1)}, tmp_path / "x.ckpt")
    assert inspect(monkeypatch, tmp_path / "x.ckpt") == 0
    printed = capsys.readouterr().out
    assert (
        "read is what lies under 'state_dict'\nargparse.Namespace: unknown here, not imported and left out" in printed
    )
    assert "not counted (not part of the model's state): args" in printed


def test_it_says_which_weights_are_not_finite(monkeypatch, capsys, tmp_path):
    state = conv_net().state_dict()
    state["0.weight"][0] = float("nan")
    torch.save(state, tmp_path / "diverged.pt")
    assert inspect(monkeypatch, tmp_path / "diverged.pt") == 0
    assert f"\nNOT finite: 0.weight ({state['0.weight'][0].numel()} NaN)\n" in capsys.readouterr().out


def test_one_format_at_a_time(monkeypatch, capsys, folder):
    assert inspect(monkeypatch, folder, "--json", "--markdown") == 2
    assert "choose one of --json and --markdown" in capsys.readouterr().err


def test_what_cannot_be_read_is_one_sentence(monkeypatch, capsys, tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF\x03")
    for path, sentence in ((tmp_path / "x.gguf", "x.gguf is a GGUF file; give"), (tmp_path, "has no checkpoint")):
        assert inspect(monkeypatch, path) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert sentence in error
        assert error.count("\n") == 1
