"""TensorFlow's checkpoint format: tensors of real files, and damaged, hostile and foreign ones."""

import contextlib
import itertools
from pathlib import Path
from struct import pack

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openwork.formats.tensorflow.bundle import Bundle
from openwork.formats.tensorflow.checksum import _one_by_one, crc32c, masked
from openwork.formats.tensorflow.entries import slice_key
from openwork.formats.tensorflow.table import read_table
from openwork.formats.tensorflow.wire import DamagedError
from tests.formats.tensorflow_files import block, checksum, field, shape, table, varint
from tests.helpers import raises
from tests.programs.tensorflow_checkpoints import CASES, variables
from tests.study.release.checkpoints import NAME, unpacked

fuzz = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return unpacked(tmp_path_factory.mktemp("bundles"))


HEADER = field(1, 1)
ONE = torch.arange(6.0).numpy().tobytes()
ENTRY = field(1, 1) + shape(2, 3) + field(5, 24) + checksum(ONE)


def bundle(tmp_path, entries, content=ONE):
    (tmp_path / "x.data-00000-of-00001").write_bytes(content)
    (tmp_path / "x.index").write_bytes(table({b"": HEADER, **entries}))
    return tmp_path / "x"


@pytest.mark.parametrize("case", CASES)
def test_tensors_of_tensorflow_are_equal_to_the_last_bit(folder, case):
    found, expected = Bundle(folder / case / NAME), variables(case)
    assert found.names == sorted(expected)
    for name, value in expected.items():
        tensor = found.tensor(name)
        assert found.shape(name) == value.shape == tuple(tensor.shape)
        assert tensor.numpy().dtype == value.dtype
        assert tensor.numpy().tobytes() == value.tobytes()


def test_the_cases_have_several_shards_and_a_partitioned_variable(folder):
    assert (folder / "transformer-magnitude" / f"{NAME}.data-00001-of-00002").stat().st_size > 1000
    keys = read_table(folder / "transformer-l0" / f"{NAME}.index")
    assert sum(key.startswith(b"\0") and b"conv1/kernel" in key for key in keys) == 3 * 2 * 2


@pytest.mark.parametrize("named", [NAME, f"{NAME}.index", f"{NAME}.data-00000-of-00001", ""])
def test_a_checkpoint_may_be_named_by_its_prefix_by_a_file_or_by_its_folder(folder, named):
    assert Bundle(folder / "resnet50-l0" / named).prefix == folder / "resnet50-l0" / NAME


def test_changing_a_tensor_does_not_change_the_file(tmp_path):
    path = bundle(tmp_path, {b"w": ENTRY})
    Bundle(path).tensor("w").zero_()
    assert Bundle(path).tensor("w").tolist() == [[0, 1, 2], [3, 4, 5]]


def test_the_checksum_is_that_of_the_standard():
    # RFC 3720, B.4
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"") == 0


@given(length=st.integers(0, 70_000), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_lanes_give_the_checksum_that_one_byte_after_the_other_gives(length, seed):
    content = bytes(torch.randint(256, (length,), generator=torch.Generator().manual_seed(seed)).tolist())
    assert crc32c(content) == _one_by_one(content, 0xFFFFFFFF) ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("extent", "key"),
    [
        # Of a checkpoint that TensorFlow wrote: rows 100 to 199 of "part", all columns.
        (((100, 100), (0, -1)), b"\0part\0\1\1\2" + b"\xc0\x64\xc0\x64" + b"\x80\x7f"),
        (((0, 63), (64, 8191)), b"\0part\0\1\1\2" + b"\x80\xbf" + b"\xc0\x40\xdf\xff"),
        (((8192, 1),), b"\0part\0\1\1\1" + b"\xe0\x20\x00\x81"),
    ],
)
def test_the_key_of_a_slice_keeps_the_order_of_numbers(extent, key):
    assert slice_key("part", extent) == key
    keys = [slice_key("part", ((start, 1),)) for start in (0, 1, 63, 64, 127, 8191, 8192, 2**20, 2**40, 2**62)]
    assert keys == sorted(keys)


def slices(*extents):
    """The list of slices of a variable of six rows."""
    return b"".join(field(7, field(1, (field(1, a) if a else b"") + field(2, n))) for a, n in extents)


def part(start, length, offset):
    content = ONE[offset : offset + 4 * length]
    entry = field(1, 1) + shape(length) + field(4, offset) + field(5, 4 * length) + checksum(content)
    return {slice_key("w", ((start, length),)): entry}


def test_slices_are_put_together(tmp_path):
    whole = {b"w": field(1, 1) + shape(6) + slices((4, 2), (0, 4))}
    path = bundle(tmp_path, {**whole, **part(0, 4, 0), **part(4, 2, 16)})
    assert Bundle(path).tensor("w").tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({b"w": field(1, 1) + shape(6) + slices((0, 4), (4, 2)), **part(0, 4, 0)}, "lacks a slice of the partitioned"),
        ({b"w": field(1, 1) + shape(6) + slices((0, 4)), **part(0, 4, 0)}, "do not fill its shape [6]"),
        ({b"w": field(1, 1) + shape(6) + slices((0, 4), (0, 4)), **part(0, 4, 0)}, "do not fill its shape [6]"),
        ({b"w": field(1, 1) + shape(5) + slices((4, 2), (0, 3)), **part(4, 2, 0), **part(0, 3, 0)}, "do not fill"),
        ({b"w": field(1, 1) + shape(6, 1) + slices((0, 6)), **part(0, 6, 0)}, "has other axes than the variable"),
        ({b"w": field(1, 2) + shape(4) + slices((0, 4)), **part(0, 4, 0)}, "another shape or type than its place"),
        ({slice_key("w", ((0, 4),)): field(1, 1) + shape(4) + slices((0, 4))}, "has other axes than the variable"),
    ],
)
def test_slices_that_do_not_fit_are_refused(tmp_path, entries, said):
    with raises(ValueError, said):
        Bundle(bundle(tmp_path, entries))


def test_slices_that_overlap_are_refused_when_they_are_read(tmp_path):
    entries = {b"w": field(1, 1) + shape(6) + slices((0, 4), (2, 2)), **part(0, 4, 0), **part(2, 2, 8)}
    with raises(ValueError, "do not fill its shape [6]"):
        Bundle(bundle(tmp_path, entries)).tensor("w")


def test_slices_cannot_claim_more_memory_than_the_files_have(tmp_path):
    # A hundred slices of the same six values would be 100 times as large as the file.
    entries = {b"w": field(1, 1) + shape(600) + slices(*((6 * n, 6) for n in range(100)))}
    for n in range(100):
        entries |= {slice_key("w", ((6 * n, 6),)): field(1, 1) + shape(6) + field(5, 24) + checksum(ONE)}
    with raises(ValueError, "the slices of 'w' in", "do not fill its shape [600]"):
        Bundle(bundle(tmp_path, entries))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (field(1, 1) + shape(2, 3) + field(4, 1) + field(5, 24), "places 'w' outside of its 1 data files"),
        (field(1, 1) + shape(2, 3) + field(4, 2**63) + field(5, 24), "places 'w' outside of its 1 data files"),
        (field(1, 1) + shape(2, 3) + field(4, -8) + field(5, 24), "places 'w' outside of its 1 data files"),
        (field(1, 1) + shape(2, 3) + field(3, 1) + field(5, 24), "places 'w' outside of its 1 data files"),
        (field(1, 1) + shape(2, 4) + field(5, 24), "has 24 bytes for 'w' of shape [2, 4]"),
        (field(1, 1) + shape(-2, -3) + field(5, 24), "has the shape [-2, -3] for 'w'"),
        (field(1, 1) + shape(0, 2**60, 2**60), "for 'w'"),
        (field(1, 1) + shape(*[1] * 40) + field(5, 4), "has the shape [1, 1, 1, 1] for 'w'"),
    ],
)
def test_an_entry_that_cannot_be_right_is_refused(tmp_path, entry, said):
    with raises(ValueError, said, "copy the whole checkpoint again"):
        Bundle(bundle(tmp_path, {b"w": entry}))


def test_a_damaged_tensor_is_found_when_it_is_read(tmp_path):
    found = Bundle(bundle(tmp_path, {b"w": ENTRY}, content=b"\1" + ONE[1:]))
    with raises(ValueError, "the checksum of 'w' in", "x.data-00000-of-00001 is wrong"):
        found.tensor("w")


def test_strings_are_not_read(tmp_path):
    found = Bundle(bundle(tmp_path, {b"s": field(1, 7) + field(5, 3)}))
    assert found.unreadable("s") == "strings"
    with raises(ValueError, "'s' of", "holds strings, which are no numbers; leave it out"):
        found.tensor("s")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c[:-1], "it does not end as such a file does, so it is cut off or of another kind"),
        (lambda c: b"", "it does not end as such a file does"),
        (lambda c: c[:5] + b"\x99" + c[6:], "the checksum of its block at byte 0 is wrong"),
        (lambda c: c[:-48] + varint(0) * 2 + varint(2**40) * 2 + c[-34:], "points to a place after its end"),
        (lambda c: c[:-48] + b"\xff" * 40 + c[-8:], "a number has more than 64 bits"),
        (lambda c: table({b"": HEADER}, kind=1), "its blocks are compressed (snappy)"),
        (lambda c: table({b"w": ENTRY}), "has no header, as in a checkpoint of version 1"),
        (lambda c: table({b"": field(1, 2**31)}), "it names 2,147,483,648 data files"),
        (lambda c: table({b"": b""}), "it names 0 data files"),
        (lambda c: table({b"": HEADER + field(2, 1)}), "it was written on a big-endian machine"),
        (lambda c: table({b"": HEADER, b"w": b"\x12\x7f"}), "a field goes on after the end"),
        (lambda c: table({b"": HEADER, b"w": b"\x0b"}), "a field has the unknown type 3"),
        (lambda c: table({b"": HEADER, b"w": field(1, b"x")}), "a field has another type than it should"),
    ],
)
def test_a_damaged_or_foreign_index_is_refused(tmp_path, change, said):
    path = bundle(tmp_path, {b"w": ENTRY})
    (tmp_path / "x.index").write_bytes(change((tmp_path / "x.index").read_bytes()))
    with raises(ValueError, "x.index is no readable index of a TensorFlow checkpoint: ", said):
        Bundle(path)


def test_an_index_cannot_point_to_a_block_again_and_again(tmp_path):
    data = block([(b"", HEADER), (b"w", ENTRY)])
    index = block([(bytes([n]), varint(0) + varint(len(data) - 5)) for n in range(100)])
    footer = varint(0) * 2 + varint(len(data)) + varint(len(index) - 5)
    path = tmp_path / "x.index"
    path.write_bytes(data + index + footer.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db"))
    with raises(DamagedError, "its keys are not in order"):
        read_table(path)


def test_a_missing_data_file_is_named_before_anything_is_read(tmp_path):
    path = bundle(tmp_path, {b"w": ENTRY})
    (tmp_path / "x.index").write_bytes(table({b"": field(1, 3), b"w": ENTRY}))
    (tmp_path / "x.data-00000-of-00001").rename(tmp_path / "x.data-00000-of-00003")
    with raises(FileNotFoundError, "x.data-00001-of-00003 is missing, one of the 3 data files"):
        Bundle(path)


def test_what_is_no_checkpoint_gets_a_sentence(tmp_path):
    with raises(FileNotFoundError, "there is no TensorFlow checkpoint", "x.index is missing; give the prefix"):
        Bundle(tmp_path / "x")
    with raises(FileNotFoundError, "is a folder without a TensorFlow checkpoint; give a prefix such as"):
        Bundle(tmp_path)
    bundle(tmp_path, {b"w": ENTRY})
    (tmp_path / "y.index").write_bytes((tmp_path / "x.index").read_bytes())
    with raises(FileNotFoundError, "has 2 TensorFlow checkpoints; give the prefix of one: ", "x, ", "y"):
        Bundle(tmp_path)
    (tmp_path / "old.ckpt").write_bytes((tmp_path / "x.index").read_bytes())
    with raises(FileNotFoundError, "old.ckpt is a TensorFlow checkpoint of version 1; save it again"):
        Bundle(tmp_path / "old.ckpt")
    (tmp_path / "text").write_text("hello")
    with raises(FileNotFoundError, "text is no TensorFlow checkpoint; give a prefix"):
        Bundle(tmp_path / "text")


def readable(path: Path) -> None:
    """Everything of a checkpoint, or a ValueError; any other exception fails the test."""
    with contextlib.suppress(ValueError, FileNotFoundError):
        found = Bundle(path)
        for name in found.names:
            if not found.unreadable(name):
                assert found.tensor(name).numel() <= 10_000


@fuzz
@given(data=st.data())
def test_flipped_and_missing_bytes(tmp_path, data):
    path = bundle(tmp_path, {b"w": ENTRY, b"v": field(1, 1) + shape(6) + slices((0, 4), (4, 2)), b"s": field(1, 7)})
    for name in ("x.index", "x.data-00000-of-00001"):
        content = bytearray((tmp_path / name).read_bytes())
        for _ in range(data.draw(st.integers(0, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        (tmp_path / name).write_bytes(content[: data.draw(st.integers(0, len(content)))])
    readable(path)


numbers = st.integers(0, 2**64 - 1) | st.integers(0, 30)
messages = st.recursive(
    st.binary(max_size=8),
    lambda inner: st.lists(st.tuples(st.integers(1, 8), numbers | inner), max_size=6).map(
        lambda fields: b"".join(itertools.starmap(field, fields))
    ),
    max_leaves=12,
)


@fuzz
@given(entries=st.dictionaries(st.binary(min_size=1, max_size=6), messages, max_size=4), header=messages)
def test_any_entries_behind_right_checksums(tmp_path, entries, header):
    path = bundle(tmp_path, entries)
    readable(path)
    (tmp_path / "x.index").write_bytes(table({b"": header, **entries}))
    readable(path)


@fuzz
@given(content=st.binary(max_size=200))
def test_any_block_behind_a_right_checksum(tmp_path, content):
    whole = content + b"\0"
    data = whole + pack("<I", masked(crc32c(whole)))
    index = block([(b"z", varint(0) + varint(len(content)))])
    footer = varint(0) * 2 + varint(len(data)) + varint(len(index) - 5)
    path = tmp_path / "x.index"
    path.write_bytes(data + index + footer.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db"))
    readable(tmp_path / "x")
