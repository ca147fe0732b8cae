"""Names with characters that a terminal obeys: tables and sentences show them escaped."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import openwork as ow
from openwork.cli.common import out_console
from openwork.inspect.compare import compare
from openwork.words import printable
from tests.cli.folders import openwork

# Clears the screen, ends a line, turns the direction of writing, has no width; 8-bit CSI.
ODD = ["\x1b[2J.weight", "a\nb.weight", "\u202egnp.weight", "z\u200bero.weight", "\x9b31m.weight", "\x00.bias"]


def state(*, value: float = 1.0) -> dict[str, torch.Tensor]:
    return {name: torch.full((4, 6) if "weight" in name else (4,), value) for name in ODD}


def assert_harmless(text: str) -> None:
    assert not [c for c in text.replace("\n", "") if not c.isprintable()]


@pytest.fixture
def files(tmp_path):
    save_file(state(), tmp_path / "a.safetensors")
    save_file({**state(value=float("nan")), "other\x1b[0m": torch.ones(3)}, tmp_path / "b.safetensors")
    torch.save({**state(), "step\x1b[0m": torch.tensor(3)}, tmp_path / "c.pt")
    return tmp_path


def test_escapes_take_the_place_of_what_a_terminal_obeys():
    assert [printable(name) for name in ODD] == [
        r"\x1b[2J.weight", r"a\nb.weight", r"\u202egnp.weight", r"z\u200bero.weight", r"\x9b31m.weight", r"\x00.bias"
    ]  # fmt: skip
    assert printable("größer → 層 · 10\u00a0%") == "größer → 層 · 10\u00a0%"


def test_tables_of_files_show_escapes_and_every_row_is_a_line(files):
    for name in ("a.safetensors", "b.safetensors", "c.pt"):
        report = ow.report(files / name)
        for text in (str(report), report.to_markdown()):
            assert_harmless(text)
            assert r"\x1b[2J.weight" in text
            assert r"a\nb.weight" in text
        assert {layer.name for layer in report.layers} == {name for name in ODD if "weight" in name}
    rows = [line for line in str(report).splitlines() if ".weight" in line]
    assert len({line.index("4x6") for line in rows}) == 1  # as wide as they are shown


def test_a_comparison_shows_escapes(files):
    found = compare(files / "a.safetensors", files / "b.safetensors")
    assert_harmless(str(found))
    assert r"only in the second: other\x1b[0m" in str(found)
    assert len([line for line in str(found).splitlines() if "4x6" in line]) == 5


@pytest.mark.parametrize("arguments", [["a.safetensors"], ["a.safetensors", "b.safetensors"], ["c.pt", "--markdown"]])
def test_the_command_prints_escapes_and_json_has_the_names(arguments, files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    assert openwork(monkeypatch, "inspect", *arguments) == 0
    said = capsys.readouterr()
    assert r"\x1b[2J.weight" in said.out
    assert_harmless(said.out + said.err)
    arguments = [each for each in arguments if each != "--markdown"]
    assert openwork(monkeypatch, "inspect", *arguments, "--json") == 0
    assert "\x1b[2J.weight" in str(json.loads(capsys.readouterr().out).values()).replace("\\x1b", "\x1b")


def test_errors_show_escapes(files, monkeypatch, capsys):
    save_file({"foreign\x1b[2J": torch.ones(2)}, files / "d.safetensors")
    assert openwork(monkeypatch, "inspect", files / "a.safetensors", files / "d.safetensors") == 2
    error = capsys.readouterr().err
    assert r"the second with foreign\x1b[2J" in error
    assert_harmless(error)


def test_pruning_shows_escapes(files, monkeypatch, capsys):
    where = ["--technique", "magnitude", "--sparsity", "0.5", "--out", files / "pruned.safetensors"]
    assert openwork(monkeypatch, "prune", files / "a.safetensors", *where) == 0
    said = capsys.readouterr()
    assert r"\x1b[2J.weight" in said.out
    assert_harmless(said.out + said.err)


def test_what_becomes_of_a_model_shows_escapes():
    model = nn.Sequential()
    model.add_module("evil\x1b[2J", nn.Linear(6, 4))
    assert_harmless(ow.prune(model, ow.GradualMagnitude(ow.OneShot(0.5))).table())
    assert_harmless(str(ow.report(model)))


def test_consoles_show_escapes_in_sentences_and_keep_their_lines(capsys):
    out_console.print("a\x1b[2J\nb", highlight=False)
    assert capsys.readouterr().out == "a\\x1b[2J\nb\n"
