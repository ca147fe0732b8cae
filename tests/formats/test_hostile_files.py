"""Damaged and hostile checkpoints: one sentence or a right answer; no code, no crash, no memory beyond the file's."""

import contextlib
import json
import pickle
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import openwork as ow
from tests.processes import run_afresh

fuzz = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
STATE = {"a.weight": torch.arange(12.0).view(3, 4), "a.bias": torch.zeros(3)}


def counted(path: Path) -> None:
    """A report or a ValueError; any other exception fails the test."""
    with contextlib.suppress(ValueError):
        report = ow.report(path)
        assert 0 <= report.zeros <= report.parameters
        assert str(report)


def saved(path: Path) -> bytes:
    legacy = path.name.startswith("legacy")
    if path.suffix == ".safetensors":
        save_file(STATE, path)
    else:
        torch.save({"model": STATE, "step": 3}, path, _use_new_zipfile_serialization=not legacy)
    return path.read_bytes()


@fuzz
@given(data=st.data(), name=st.sampled_from(["new.pt", "legacy.pt", "new.safetensors"]))
def test_flipped_and_missing_bytes(tmp_path, data, name):
    content = bytearray(saved(tmp_path / name))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / name).write_bytes(content[: data.draw(st.integers(0, len(content)))])
    counted(tmp_path / name)


@fuzz
@given(content=st.binary(max_size=600), name=st.sampled_from(["x.pt", "x.safetensors", "x", "x.index.json"]))
def test_any_bytes(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    counted(tmp_path / name)


integers = st.integers(-(2**64), 2**64) | st.integers(-1, 50)
tensors = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "I8", "F8_E4M3", "F4", "F8_E8M0", "BOOL", "U64", "C64", "X"]),
        "shape": st.lists(integers, max_size=4),
        "data_offsets": st.lists(integers, min_size=1, max_size=3),
    }
)


@fuzz
@given(header=st.dictionaries(st.text(max_size=6), tensors, max_size=3), size=st.integers(0, 48))
def test_safetensors_headers_that_lie(tmp_path, header, size):
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
    counted(tmp_path / "x.safetensors")


@fuzz
@given(data=st.data(), sparse=st.booleans())
def test_pickles_and_records_that_lie_inside_a_sound_archive(tmp_path, data, sparse):
    """Their checksums fit: whoever writes a file on purpose computes those."""
    torch.save({"w": torch.eye(4).to_sparse() if sparse else torch.eye(4)}, tmp_path / "sound.pt")
    with zipfile.ZipFile(tmp_path / "sound.pt") as old, zipfile.ZipFile(tmp_path / "x.pt", "w") as new:
        for entry in old.infolist():
            content = bytearray(old.read(entry))
            for _ in range(data.draw(st.integers(0, 2))):
                content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
            new.writestr(entry.filename, bytes(content))
    counted(tmp_path / "x.pt")


@fuzz
@given(places=st.recursive(st.none() | integers | st.text(max_size=5), lambda x: st.dictionaries(st.text(), x)))
def test_indexes_that_lie(tmp_path, places):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with contextlib.suppress(FileNotFoundError):
        counted(tmp_path)


def calls(function: str, number: int) -> bytes:
    """A pickle of {"a": function(number)}."""
    packed = pickle.dumps(number, 2)[2:-1]
    return b"\x80\x02}X\x01\x00\x00\x00ac" + function.replace(".", "\n").encode() + b"\n" + packed + b"\x85Rs."


def archive(path: Path, content: bytes, *, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("x/data.pkl", content)
        file.writestr("x/version", "3\n")
        file.writestr("x/byteorder", "little")


def legacy(path: Path, content: bytes) -> None:
    """torch's format before version 1.6: magic number, protocol, system, content, keys of the storages."""
    first = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    path.write_bytes(b"".join(pickle.dumps(x, 2) for x in first) + content + pickle.dumps([], 2))


def bombs(folder: Path) -> Iterator[Path]:
    """Small files that ask for 16 GB or more."""
    yield folder / "compressed.pt"
    archive(folder / "compressed.pt", bytes(200_000_000), compression=zipfile.ZIP_DEFLATED)
    for name in ("__builtin__.bytearray", "torch.FloatTensor"):
        for write in (archive, legacy):
            path = folder / f"{write.__name__}-{name}.pt"
            write(path, calls(name, 1 << 34))
            yield path
    for length in (1 << 62, 1 << 34):
        path = folder / f"{length}.safetensors"
        path.write_bytes(struct.pack("<Q", length) + b"{}")
        yield path
    for shape in ([1 << 34], [1 << 40, 0, 1 << 40]):
        text = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}).encode()
        path = folder / f"{len(shape)}.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
        yield path
    deep = folder / "deep.index.json"
    deep.write_text("[" * 1_000_000)
    yield deep


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures its memory in /proc")
def test_small_files_do_not_take_much_memory(tmp_path):
    paths = list(bombs(tmp_path))
    lines = run_afresh("report_in_little_memory", *paths).splitlines()
    assert len(lines) == len(paths)
    assert "unpacks to 200,000" in lines[0]
    assert "asks for memory that it does not fill" in lines[1]
    assert not [line for line in lines if line.startswith("report")]


def test_an_expanded_tensor_in_a_small_file_has_a_right_answer(tmp_path):
    torch.save({"w": torch.zeros(1).expand(1 << 20, 1 << 20)}, tmp_path / "x.pt")
    assert ow.report(tmp_path / "x.pt").zeros == 1 << 40


def test_what_a_failed_load_left_behind_is_not_checked_with_the_next_file(tmp_path):
    """torch keeps sparse tensors of a load until it has checked them, and forgets none of a load that failed before."""
    wrong = torch.sparse_coo_tensor(torch.tensor([[9]]), torch.ones(1), (4,), check_invariants=False)
    torch._utils._sparse_tensors_to_validate.append(wrong)
    torch.save({"w": torch.zeros(2, 2)}, tmp_path / "x.pt")
    assert ow.report(tmp_path / "x.pt").zeros == 4
    assert torch._utils._sparse_tensors_to_validate == []


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_sparse_indices_out_of_range_are_refused(tmp_path, compressed):
    """torch checks them on request alone; counting such a tensor would end the process."""
    weight = torch.eye(4)
    torch.save({"w": weight.to_sparse_csr() if compressed else weight.to_sparse()}, tmp_path / "sound.pt")
    with zipfile.ZipFile(tmp_path / "sound.pt") as old, zipfile.ZipFile(tmp_path / "x.pt", "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            far = struct.pack("<q", 1 << 28) * (len(content) // 8)
            new.writestr(entry.filename, far if entry.filename.endswith("data/0") else content)
    assert ow.report(tmp_path / "sound.pt").zeros == 12
    with pytest.raises(ValueError, match="is not a readable torch checkpoint"):
        ow.report(tmp_path / "x.pt")


def test_a_file_that_would_run_code_is_refused(tmp_path):
    marker = tmp_path / "executed"

    class Attack:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    for new in (True, False):
        torch.save({"model": Attack()}, tmp_path / "attack.pt", _use_new_zipfile_serialization=new)
        with pytest.raises(ValueError, match=r"it would import \S*open; save model.state_dict\(\)"):
            ow.report(tmp_path / "attack.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"it would import torch\S*Linear; save model.state_dict\(\) instead"):
        ow.report(tmp_path / "module.pt")  # torch's format from before 1.6
    assert not marker.exists()


@pytest.mark.parametrize("level", [b"\x85", b"N\x86", b"NN\x87", b"q\x010(h\x01t"])
def test_tuples_nested_as_keys_are_refused_before_they_end_the_process(tmp_path, level):
    for write in (archive, legacy):
        write(tmp_path / "x.pt", b"\x80\x02})" + level * 200_000 + b"K\x01s.")
        with pytest.raises(ValueError, match="nests thousands of tuples, which no checkpoint does"):
            ow.report(tmp_path / "x.pt")


def test_many_flat_tuples_are_read(tmp_path):
    torch.save({"model": STATE, "pairs": [(i, (i,)) for i in range(20_000)]}, tmp_path / "x.pt")
    assert ow.report(tmp_path / "x.pt").parameters == 15


@pytest.mark.parametrize(
    "shard", ["../../etc/passwd", "/etc/passwd", "..", "", "sub/model.safetensors", "a\\b", "x.json"]
)
def test_an_index_stays_in_its_folder(tmp_path, shard):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": shard}}))
    with pytest.raises(ValueError, match="which is not a file in the same folder; copy the folder again"):
        ow.report(tmp_path)
