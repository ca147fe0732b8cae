"""What is read, how much memory it takes, and what stays behind when writing fails."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import openwork as ow
from openwork.formats.sparse import file as open_file
from openwork.formats.sparse.dense import save_dense
from tests.helpers import raises


def sparse(*shape: int, density: float = 0.1) -> torch.Tensor:
    return torch.randn(shape) * (torch.rand(shape) < density)


@pytest.fixture
def unpacked(monkeypatch):
    """The shapes of what was unpacked."""
    shapes = []
    unpack = open_file.unpack
    monkeypatch.setattr(open_file, "unpack", lambda packed, data: shapes.append(packed.shape) or unpack(packed, data))
    return shapes


def test_a_load_unpacks_each_tensor_once_and_only_those_that_were_asked_for(tmp_path, unpacked):
    shared = sparse(10, 100)
    state = {f"{i}.w": sparse(i, 1000) for i in range(1, 6)} | {"a": shared, "b": shared}
    ow.save(state, tmp_path / "x.safetensors")
    assert ow.load(tmp_path / "x.safetensors", names=["3.w"]).keys() == {"3.w"}
    assert unpacked == [(3, 1000)]
    unpacked.clear()
    ow.load(tmp_path / "x.safetensors", threads=1)
    assert unpacked == [(1, 1000), (2, 1000), (3, 1000), (4, 1000), (5, 1000), (10, 100)]


def test_reading_one_tensor_reads_its_bytes_alone(tmp_path):
    torch.manual_seed(0)
    state = {"a": sparse(100, 1000), "b": sparse(100, 1000), "c": torch.ones(3)}
    ow.save(state, tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        size = file.get_slice("b.packed").get_shape()[0]
    content = bytearray((tmp_path / "x.safetensors").read_bytes())
    start = 8 + int.from_bytes(content[:8], "little") + 12  # c, with the largest words, comes first
    content[start : start + 1000] = bytes(1000)  # a is damaged
    (tmp_path / "x.safetensors").write_bytes(content)
    assert size < 60_000
    assert ow.load(tmp_path / "x.safetensors", names=["b", "c"])["b"].equal(state["b"])
    with pytest.raises(ValueError, match=r"is not a readable safetensors file \(a: a part .*; copy it"):
        ow.load(tmp_path / "x.safetensors")


def test_other_safetensors_files_load_too_and_names_are_checked(tmp_path):
    save_file({"b": torch.ones(2), "a": torch.zeros(2)}, tmp_path / "x.safetensors", {"openwork": "a note"})
    assert list(ow.load(tmp_path / "x.safetensors")) == ["a", "b"]
    assert ow.load(tmp_path / "x.safetensors", names=[]) == {}
    with pytest.raises(ValueError, match=r"has no tensor 'c'; it has 2, such as 'a'$"):
        ow.load(tmp_path / "x.safetensors", names=["a", "c"])
    with pytest.raises(FileNotFoundError, match=r"no file .*y.safetensors; give a .safetensors file"):
        ow.load(tmp_path / "y.safetensors")
    with pytest.raises(ValueError, match="threads must be a whole number of at least 1, got 0"):
        ow.load(tmp_path / "x.safetensors", threads=0)


def test_every_code_can_be_inspected(tmp_path):
    torch.manual_seed(0)
    state = {
        "few.weight": sparse(40, 50),
        "half.weight": sparse(40, 50, density=0.5),
        "all.weight": torch.randn(40, 50),
    }
    saved = ow.save(state, tmp_path / "x.safetensors")
    assert saved.counts() == {"gaps": 1, "bits": 1, "all": 1}
    assert ow.report(tmp_path / "x.safetensors").to_dict() == ow.report(dict(sorted(state.items()))).to_dict()


def test_a_file_that_takes_more_memory_than_its_limit_is_refused_with_the_cure(tmp_path):
    ow.save({"w": torch.zeros(500, 1000)}, tmp_path / "x.safetensors")
    assert ow.load(tmp_path / "x.safetensors")["w"].shape == (500, 1000)
    with pytest.raises(
        ValueError, match=r"takes 2,000,000 in memory, more than 1,000; if you trust it, give limit=2000000"
    ):
        ow.load(tmp_path / "x.safetensors", limit=1000)
    assert ow.load(tmp_path / "x.safetensors", limit=2_000_000)["w"].count_nonzero() == 0


def test_words_lie_at_multiples_of_their_size(tmp_path):
    state = {"flag": torch.ones(3, dtype=torch.bool), "h": torch.ones(3).half(), "d": torch.ones(3).double()}
    ow.save(state | {"f": torch.ones(3), "w": torch.zeros(999)}, tmp_path / "x.safetensors")
    found = load_file(tmp_path / "x.safetensors")
    assert [found[name].tolist() for name in ("flag", "h", "d", "f")] == [[1, 1, 1]] * 4
    header = (tmp_path / "x.safetensors").read_bytes()[8:].decode(errors="replace")
    places = sorted((header.index(f'"{name}":{{'), name) for name in ("d", "f", "h", "flag"))
    assert [name for _, name in places] == ["d", "f", "h", "flag"]


class Stubborn(torch.nn.Module):
    """A state whose last tensor cannot be read."""

    def state_dict(self, *arguments: object, **settings: object) -> dict[str, torch.Tensor]:
        return {"w": torch.randn(1000), "v": torch.empty(1000, device="meta")}


def _forbidden(dir: Path, prefix: str) -> None:
    raise PermissionError(13, "Permission denied", str(dir / f"{prefix}u5tq7g2q"))


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    before = threading.active_count()
    (tmp_path / "x.safetensors").write_text("old")
    with pytest.raises(ValueError, match="'v' is on the meta device and has no values; load the weights first"):
        ow.save(Stubborn(), tmp_path / "x.safetensors")
    from openwork.formats.sparse import packed

    monkeypatch.setattr(packed.positions, "smallest", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ow.save({f"w{i}": sparse(1000) for i in range(9)}, tmp_path / "x.safetensors", threads=3)
    monkeypatch.undo()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}/x.safetensors'$"):
        ow.save({"w": sparse(1000)}, tmp_path / "x.safetensors")
    monkeypatch.undo()
    monkeypatch.setattr("tempfile.TemporaryFile", _forbidden)  # where what is packed waits for its header
    with pytest.raises(PermissionError, match=rf"Permission denied: '{tmp_path}/x.safetensors'$"):
        ow.save({"w": sparse(1000)}, tmp_path / "x.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
    assert (tmp_path / "x.safetensors").read_text() == "old"
    assert threading.active_count() == before


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ow.save({"w": sparse(1000)}, tmp_path / "nowhere" / "x.safetensors")


def test_folders_and_devices_are_not_replaced_by_a_file(tmp_path):
    (tmp_path / "file").write_text("old")
    os.mkfifo(tmp_path / "pipe")
    for save in (ow.save, save_dense):
        for target in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
            with raises(ValueError, f"{target} is a folder or a device; give the name of a file"):
                save({"w": sparse(1000)}, target)
        with raises(FileNotFoundError, f"there is no folder {tmp_path / 'file'} to write x to; make it"):
            save({"w": sparse(1000)}, tmp_path / "file" / "x")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "pipe"}
    assert not Path("/dev/null").is_file()


@pytest.mark.slow
def test_a_kill_while_writing_leaves_the_old_file_whole(tmp_path):
    program = Path(__file__).parents[2] / "programs" / "save_for_ever.py"
    target = tmp_path / "x.safetensors"
    for wait in (0.0, 0.01, 0.03, 0.1, 0.2):
        process = subprocess.Popen([sys.executable, program, target], stdout=subprocess.PIPE)
        assert process.stdout
        process.stdout.readline()  # one is written
        time.sleep(wait)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = ow.load(target)
        assert found["w"].unique().numel() == 1


@pytest.mark.slow
def test_saving_holds_no_second_model(tmp_path):
    """The state is mapped from a file; what saving adds is a few tensors, not all forty."""
    save_file({f"{i}": torch.randn(1024, 1024) for i in range(40)}, tmp_path / "dense.safetensors")
    program = Path(__file__).parents[2] / "programs" / "memory_of_saving.py"
    answer = subprocess.run(
        [sys.executable, program, tmp_path / "dense.safetensors", tmp_path / "x.safetensors"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(answer.stdout) < 80_000_000  # of 168 MB
