"""`openwork export` as a user calls it; what it says of a run is in tests/study/test_export_of_runs.py."""

import json
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import openwork as ow
from openwork.cli import main
from tests.formats.test_checkpoint import folder_of_shards
from tests.helpers import conv_net


def export(monkeypatch, *arguments: object) -> int:
    """The exit code."""
    monkeypatch.setattr(sys, "argv", ["openwork", "export", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


@pytest.fixture
def state():
    torch.manual_seed(0)
    few = torch.randn(100, 100) * (torch.rand(100, 100) < 0.1)
    return {"few": few, "tied": few, "all": torch.randn(100, 100), "bias": torch.ones(10)}


def test_there_and_back_gives_the_same_keys_and_bits(monkeypatch, capsys, tmp_path, state):
    torch.save({"model": state, "epoch": 3, "optimizer": {"param_groups": [], "state": {}}}, tmp_path / "x.pt")
    assert export(monkeypatch, tmp_path / "x.pt", "--to", "sparse") == 0
    said = capsys.readouterr()
    size = (tmp_path / "x.sparse.safetensors").stat().st_size
    assert said.out.splitlines() == [
        f"{tmp_path / 'x.sparse.safetensors'}: 80,040 bytes of tensors in a file of {size:,}, {80_040 / size:.2f} to 1",
        "tensors: 1 as gaps, 1 with coded exponents, 1 as they are",
    ]
    assert said.err.splitlines() == [
        "read is what lies under 'model'",
        "left out: optimizer, not part of the model's state",
    ]
    assert export(monkeypatch, tmp_path / "x.sparse.safetensors", "--to", "dense", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "format": 1,
        "command": "export",
        "path": str(tmp_path / "x.sparse.safetensors"),
        "out": str(tmp_path / "x.dense.safetensors"),
        "dense_bytes": 80_040,
        "file_bytes": (tmp_path / "x.dense.safetensors").stat().st_size,
        "codes": {"dense": 4},
    }
    plain = load_file(tmp_path / "x.dense.safetensors")  # by the plain library
    assert plain.keys() == state.keys()
    assert all(plain[name].equal(state[name]) for name in state)
    with safe_open(tmp_path / "x.dense.safetensors", "pt") as file:
        assert file.metadata() in ({"format": "pt", "tied": "few"}, {"format": "pt", "few": "tied"})
    assert (
        ow.report(tmp_path / "x.dense.safetensors").to_dict() == ow.report(tmp_path / "x.sparse.safetensors").to_dict()
    )


def test_shards_become_one_file_beside_their_folder(monkeypatch, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    state = folder_of_shards(folder, ".safetensors", save_file)
    assert export(monkeypatch, folder, "--to", "sparse") == 0
    found = ow.load(tmp_path / "model.sparse.safetensors")
    assert found.keys() == state.keys()
    assert all(found[name].equal(state[name]) for name in state)
    assert export(monkeypatch, folder, "--to", "dense", "--out", tmp_path / "one.safetensors") == 0
    assert load_file(tmp_path / "one.safetensors").keys() == state.keys()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["x.safetensors", "--to", "sparse", "--out", "x.safetensors"],
            "belongs to what is exported; give another --out",
        ),
        (
            ["x.safetensors", "--to", "sparse", "--out", "no/y.safetensors"],
            "there is no folder no to write y.safetensors",
        ),
        (["x.safetensors", "--to", "sparse", "--out", "folder"], "folder is a folder; give a file as --out"),
        (["y.safetensors", "--to", "sparse"], "no checkpoint file y.safetensors"),
        (["text.safetensors", "--to", "dense"], "text.safetensors is not a readable safetensors file"),
        (
            ["complex.pt", "--to", "dense"],
            "'w' is torch.complex64, which few readers know; save it sparse, or convert it",
        ),
    ],
)
def test_errors_are_a_sentence_and_write_nothing(monkeypatch, capsys, tmp_path, arguments, said):
    monkeypatch.chdir(tmp_path)
    save_file(conv_net().state_dict(), "x.safetensors")
    torch.save({"w": torch.ones(3, dtype=torch.complex64)}, "complex.pt")
    (tmp_path / "text.safetensors").write_text("text")
    (tmp_path / "folder").mkdir()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert export(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_wrong_usage_is_told(monkeypatch, capsys, tmp_path):
    assert export(monkeypatch, tmp_path / "x.pt") == 2
    assert "missing option '--to'" in capsys.readouterr().err
    assert export(monkeypatch, tmp_path / "x.pt", "--to", "gguf") == 2
