"""Damaged and hostile files give one sentence within bounded memory, and what no file can hold is refused."""

import itertools
import json
import random
import resource
import struct
import warnings
import zlib
from fractions import Fraction

import numpy as np
import pytest
import torch
import zstandard
from safetensors import safe_open
from torch import nn

import openwork as ow
from openwork.formats.sparse.codecs import frame
from openwork.formats.sparse.described import CHECK, KEY
from openwork.formats.sparse.packed import COLUMNS
from tests.helpers import raises

CURE = "copy it again from its source"


def sparse(*shape: int, density: float = 0.1) -> torch.Tensor:
    return torch.randn(shape) * (torch.rand(shape) < density)


@pytest.fixture
def path(tmp_path):
    """A file of every code: gaps, bits, all words, -0.0, tied, dense."""
    torch.manual_seed(0)
    state = {"few": sparse(40, 50), "half": sparse(40, 50, density=0.5), "all": torch.randn(40, 50).bfloat16()}
    state |= {"signed": -sparse(40, 50).abs(), "bias": torch.ones(7), "tied": state["few"]}
    state["mask"] = torch.rand(4000) < 0.02
    ow.save(state, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


def parts(path):
    """The header and the bytes after it."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def rewrite(path, header, data, description=None):
    if description is not None:
        text = description if isinstance(description, str) else json.dumps(description)
        header["__metadata__"] |= {KEY: text, CHECK: str(zlib.crc32(text.encode()))}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def described(path):
    header, data = parts(path)
    return header, data, json.loads(header["__metadata__"][KEY])


def one_packed(path, row, frames):
    """A file of one packed tensor, w, as somebody wrote it by hand."""
    data = b"".join(frames)
    header = {"__metadata__": {}, "w.packed": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}
    content = {"version": 1, "columns": COLUMNS, "tensors": {"w": [*row, [len(part) for part in frames]]}, "tied": {}}
    rewrite(path, header, data, content)


def refused(path, pattern=".*"):
    with pytest.raises(ValueError, match=rf"^{path} is not a readable safetensors file \({pattern}\); {CURE}$"):
        ow.load(path)


def test_a_file_that_ends_anywhere_is_refused(path):
    content = path.read_bytes()
    for end in [*range(0, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:end])
        refused(path)


def test_every_flipped_bit_of_a_packed_tensor_is_noticed(path):
    before = ow.load(path)
    header, data = parts(path)
    begin = 8 + len(path.read_bytes()) - 8 - len(data)
    content = path.read_bytes()
    first, last = header["few.packed"]["data_offsets"]
    for place in range(begin + first, begin + last, 7):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        refused(path, "few: .*")
    path.write_bytes(content)
    assert ow.load(path)["few"].equal(before["few"])


@pytest.mark.parametrize("seed", range(4))
def test_a_fuzzed_file_loads_or_gives_one_sentence(path, seed):
    content, rng = path.read_bytes(), random.Random(seed)
    size = 8 + int.from_bytes(content[:8], "little")
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 1, 2, 20])):
            place = rng.randrange(size if rng.random() < 0.7 else len(content))
            damaged[place] = rng.choice([damaged[place] ^ (1 << rng.randrange(8)), *b'0192,[]"{}:', 255])
        path.write_bytes(damaged)
        try:
            found = ow.load(path)
        except ValueError as error:
            text = str(error)
            assert text.startswith(str(path)), text
            assert "\n" not in text
            assert len(text) < 400 + len(str(path))
        else:
            assert sum(tensor.nbytes for tensor in found.values()) < 1 << 31


VALUES = [None, True, -1, 0, 3, 2**70, 1.5, "", "F32", "U8", "gaps", "ranks4", [], [2**40, 2**40], [[]], {}, ["few"]]


def test_a_description_of_other_values_is_refused_or_says_something_else(path):
    header, data, content = described(path)
    size, refusals = sum(tensor.nbytes for tensor in ow.load(path).values()), 0
    for name, row in content["tensors"].items():
        for column, value in itertools.product(range(len(row)), VALUES):
            changed = json.loads(json.dumps(content))
            changed["tensors"][name][column] = value
            rewrite(path, header, data, changed)
            try:
                found = ow.load(path)
            except ValueError as error:
                refusals += str(error).startswith(f"{path} ") and value != row[column]
            else:  # another dtype of the same size, or base
                assert sum(tensor.nbytes for tensor in found.values()) == size
    assert refusals > 400
    for key, value in itertools.product(content, VALUES):
        if (key, value) == ("tied", {}):
            continue
        rewrite(path, header, data, {**content, key: value})
        with pytest.raises(ValueError, match=f"^{path} .*; (copy|install)"):
            ow.load(path)


def test_a_changed_description_is_noticed(path):
    header, data, content = described(path)
    content["tensors"]["few"][3] += 2  # the base
    header["__metadata__"][KEY] = json.dumps(content)
    rewrite(path, header, data)
    refused(path, "its description does not have its checksum")


def test_a_description_that_nests_without_end_is_refused(path):
    header, data, _ = described(path)
    rewrite(path, header, data, "[" * 100_000)
    refused(path, "its description is no JSON: .*")
    rewrite(path, header, data, '{"version":1,"columns":' + "[" * 100_000)
    refused(path, "its description is no JSON: .*")


def test_a_newer_format_says_what_to_install(path):
    header, data, content = described(path)
    rewrite(path, header, data, {**content, "version": 2})
    with pytest.raises(ValueError, match=r"\(its format is 2, not 1\); install a newer openwork$"):
        ow.load(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c, h: c["tensors"].update(gone=c["tensors"]["few"]), "it lacks 'gone.packed'"),
        (lambda c, h: c["tensors"].update(bias=c["tensors"]["few"]), "it lacks 'bias.packed'"),
        (lambda c, h: c["tied"].update(other="gone"), "it lacks what 'other' is tied to"),
        (lambda c, h: c["tied"].update(other="tied"), "it lacks what 'other' is tied to"),
        (lambda c, h: c["tied"].update(few="all"), "it holds 'few' twice"),
        (lambda c, h: c["tied"].update(bias="all"), "it holds 'bias' twice"),
        (lambda c, h: c["tensors"].pop("few"), "it lacks what 'tied' is tied to"),
        (lambda c, h: h["few.packed"].update(dtype="I8"), "few: .*"),
    ],
)
def test_names_that_do_not_agree_are_refused(path, change, reason):
    header, data, content = described(path)
    change(content, header)
    rewrite(path, header, data, content)
    refused(path, reason)


EMPTY = frame(np.empty(0, np.uint8))


def bomb(size: int) -> bytes:
    """A frame of a few kilobytes that unpacks to zeros."""
    return zstandard.ZstdCompressor(level=1).compress(bytes(size))


def lying(size: int) -> bytes:
    """A frame whose header claims ``size`` bytes: magic, a descriptor with eight bytes of size, and one raw block."""
    return b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", size) + b"\x01\x00\x00"


@pytest.mark.parametrize(
    ("row", "frames", "reason"),
    [
        (
            ["F32", [1000], 5, 0, "gaps", "bytes"],
            [bomb(1 << 26), b"", bomb(5), EMPTY, bomb(15)],
            r".* 67,108,864 bytes .*",
        ),
        (["F32", [1000], 5, 0, "bits", "bytes"], [lying(1 << 60), b"", EMPTY, EMPTY, EMPTY], ".*"),
        (["F32", [1000], 0, 0, "bits", "bytes"], [lying(125), b"", EMPTY, EMPTY, EMPTY], ".*"),
        (["F32", [1000], 0, 0, "bits", "bytes"], [frame(np.full(125, 255, np.uint8)), b"", EMPTY, EMPTY, EMPTY], ".*"),
        (["U8", [8], 3, 0, "gaps", "bytes"], [frame(np.uint8([255, 3, 0, 0])), b"", bomb(3), EMPTY, b""], ".*"),
        (["U8", [300], 3, 0, "gaps", "bytes"], [frame(np.uint8([255, 3, 9, 255])), b"", bomb(3), EMPTY, b""], ".*"),
        (["U8", [300], 1, 0, "gaps", "bytes"], [frame(np.uint8([255, 255])), b"", bomb(1), EMPTY, b""], ".*"),
        (["U8", [300], 2, 0, "gaps", "bytes"], [frame(np.uint8([5, 255])), b"", bomb(2), EMPTY, b""], ".*"),
        (["U8", [4], 4, 0, "all", "exceptions.gaps"], [b"", b"", frame(np.uint8([9])), bomb(2), b""], ".*"),
        (["U8", [4], 4, 0, "all", "exceptions.bits"], [b"", b"", frame(np.uint8([255])), bomb(3), b""], ".*"),
        (["U8", [4], 4, 0, "all", "ranks4"], [b"", b"", frame(np.uint8([0] * 15 + [255, 255])), bomb(3), b""], ".*"),
        (["U8", [4], 4, 0, "all", "ranks2"], [b"", b"", bomb(9), EMPTY, b""], ".*"),
        (["U8", [4], 4, 0, "all", "bytes"], [b"", b"", bomb(4), bomb(1), b""], ".*"),
        (["F32", [4], 2, 0, "bits", "bytes"], [bomb(1), frame(np.uint8([255])), bomb(2), EMPTY, bomb(6)], ".*"),
        (["F32", [4], 4, 0, "all", "bytes"], [b"", b"", bomb(4), EMPTY, bomb(11)], ".*"),
    ],
)
def test_frames_of_other_contents_are_refused(tmp_path, row, frames, reason):
    one_packed(tmp_path / "x.safetensors", row, frames)
    refused(tmp_path / "x.safetensors", f"w: {reason}")


def test_a_file_that_claims_the_memory_of_the_world_is_refused_before_any_is_taken(tmp_path):
    for shape in ([2**40], [2**20, 2**20, 2**20], [2**31, 2**31]):
        one_packed(tmp_path / "x.safetensors", ["F32", shape, 0, 0, "gaps", "bytes"], [EMPTY, b"", EMPTY, EMPTY, EMPTY])
        with pytest.raises(
            ValueError, match=r"bytes and takes [\d,]+ in memory, more than [\d,]+; if you trust it, give"
        ):
            ow.load(tmp_path / "x.safetensors")


def test_a_bomb_takes_no_memory(tmp_path):
    row = ["F32", [1000], 5, 0, "gaps", "bytes"]
    one_packed(tmp_path / "x.safetensors", row, [bomb(1 << 30), b"", bomb(5), EMPTY, bomb(15)])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(tmp_path / "x.safetensors")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


class Odd(torch.Tensor):
    """A subclass whose values may be elsewhere."""


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (torch.empty(3, device="meta"), "is on the meta device and has no values; load the weights first"),
        (
            torch.eye(3).to_sparse(),
            r"has the layout torch.sparse_coo; save its to_dense\(\), whose zeros take no space",
        ),
        (torch.eye(3).as_subclass(Odd), r"is a Odd, whose values are not in one piece of memory; give a plain tensor"),
        (nn.UninitializedParameter(), "has no values yet; run the model on one batch first"),
        (torch.zeros(3).to(torch.uint8).view(torch.bits8), "is torch.bits8, which no file of tensors holds; convert"),
        ([1.0], "is a list and no tensor; leave it out of the state"),
        (Fraction(1), "is a Fraction and no tensor; leave it out of the state"),
    ],
)
def test_what_no_file_can_hold_is_refused(tmp_path, value, reason):
    with pytest.raises(ValueError, match=f"^'w' {reason}"):
        ow.save({"w": value}, tmp_path / "x.safetensors")
    assert [*tmp_path.iterdir()] == []


def test_quantized_and_nested_tensors_are_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says once in a process that it is deprecated
        quantized = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    with pytest.raises(ValueError, match=r"'w' is quantized by torch \(torch.qint8\); save its dequantize\(\)"):
        ow.save({"w": quantized}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="'w' "):
        ow.save({"w": torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged)}, tmp_path / "x.safetensors")


def test_wrong_arguments_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    layer = nn.Linear(2, 2)
    for state, settings, reason in [
        ({}, {}, "there is no tensor to save; give a model or its state_dict()"),
        ({3: torch.ones(2)}, {}, "a tensor is named 3, which a file cannot have"),
        ({"__metadata__": torch.ones(2)}, {}, "is named '__metadata__', which a file cannot have"),
        (layer, {"metadata": {KEY: "x"}}, f"metadata may not be named '{KEY}', which"),
        (layer, {"metadata": {"run": 3}}, "metadata must map texts to texts, got {'run': 3}; use json.dumps"),
        ({"\ud800": torch.ones(2)}, {}, r"a tensor is named '\ud800', which a file cannot have"),
        (layer, {"metadata": {"run": "\udfff"}}, r"metadata must map texts to texts, got {'run': '\udfff'}"),
        (layer, {"threads": 0}, "threads must be a whole number of at least 1, got 0"),
    ]:
        with raises(ValueError, reason):
            ow.save(state, path, **settings)
    for state in (torch.ones(2), None, [("w", torch.ones(2))], "model.pt"):
        with raises(TypeError, "expected a model, a sparsifier or a state dict, got a"):
            ow.save(state, path)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128, torch.float8_e4m3fnuz])
def test_a_tensor_that_must_be_packed_gives_its_name_to_no_other(dtype, tmp_path):
    state = {"w": torch.ones(3).to(dtype), "w.packed": torch.ones(3)}
    with raises(ValueError, f"'w' is {dtype}, whose bytes are always packed, under the name 'w.packed', which another"):
        ow.save(state, tmp_path / "x.safetensors")
    assert [*tmp_path.iterdir()] == []
    ow.save({"w": state["w"], "w.packed.packed": torch.ones(3)}, tmp_path / "x.safetensors")
    assert ow.load(tmp_path / "x.safetensors").keys() == {"w", "w.packed.packed"}


def test_the_plain_library_opens_what_is_saved(path):
    with safe_open(path, "pt") as file:
        assert sorted(file.keys()) == [
            "all.packed",
            "bias",
            "few.packed",
            "half.packed",
            "mask.packed",
            "signed.packed",
        ]
        assert file.get_tensor("bias").tolist() == [1] * 7
