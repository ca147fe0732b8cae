"""ImageNet's validation images in TFRecords, as TensorFlow wrote them, and damaged ones."""

import contextlib
import dataclasses
import io
import json
import shutil
from struct import pack

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from openwork.cli import app
from openwork.formats.tensorflow.checksum import crc32c, masked
from openwork.study.data.crops import decoded
from openwork.study.data.records import open_records
from openwork.study.runs.checkpoint import write_weights
from openwork.study.runs.run import Run
from openwork.study.tasks.imagenet import ImageNetResNet
from tests.helpers import raises
from tests.study.pictures_on_disk import write_folders
from tests.study.release.checkpoints import unpacked

TINY = Run(ImageNetResNet("shards", depth=18, width=0.125, classes=3, size=16, batch_size=4, part_size=2), None, 1)
fuzz = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return unpacked(tmp_path_factory.mktemp("records")) / "tfrecords"


def framed(*records):
    """The bytes of a TFRecord file."""
    found = b""
    for record in records:
        length = pack("<Q", len(record))
        found += length + pack("<I", masked(crc32c(length))) + record + pack("<I", masked(crc32c(record)))
    return found


def field(number, content):
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def example(**values):
    """A tf.train.Example of integers and byte strings; names with a double underscore for a slash."""
    entries = b""
    for name, value in values.items():
        inner = field(3, bytes([8, value])) if isinstance(value, int) else field(1, field(1, value))
        entries += field(1, field(1, name.replace("__", "/").encode()) + field(2, inner))
    return field(1, entries)


def test_the_shards_of_tensorflow_are_images_whose_labels_count_from_zero(written):
    records = open_records(written, "validation")
    assert records.blocks.tolist() == [3, 2]
    found = [record for block in range(2) for record in records.read(block)]
    assert [record.label for record in found] == [0, 2, 1, 1, 0]
    assert [decoded(record.encoded).shape for record in found] == [(18, 20 + n, 3) for n in (0, 1, 2, 0, 1)]
    means = [round(float(decoded(record.encoded).mean()) / 60) for record in found]
    assert means == [1, 3, 2, 2, 1]
    assert found[4].name.startswith("record 1 of ")
    assert found[4].name.endswith("validation-00001-of-00002")


def test_shards_may_lie_in_a_folder_of_the_split(written, tmp_path):
    shutil.copytree(written, tmp_path / "validation")
    assert open_records(tmp_path, "validation").blocks.sum() == 5


def test_eval_counts_the_images_of_tfrecords(written, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENWORK_DATA", str(tmp_path))
    monkeypatch.setenv("OPENWORK_WORKERS", "0")
    shutil.copytree(written, tmp_path / "shards")
    torch.manual_seed(0)
    write_weights(TINY.task.model(), tmp_path / "x.safetensors")
    arguments = ["eval", str(tmp_path / "x.safetensors"), "--task", "tests.study.test_tfrecords:TINY", "--json"]
    found = json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout)["evaluated"]
    assert (found[0]["images"], found[0]["unreadable"]) == (5, 0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (framed(b"ab")[:-1], "is no whole TFRecord file: it is cut off at byte 17; fetch it again"),
        (framed(b"ab") + b"\0", "cut off at byte 19"),
        (b"\x01" + framed(b"ab")[1:], "the checksum of the length at byte 0 is wrong"),
        (pack("<Q", 2**63) + pack("<I", masked(crc32c(pack("<Q", 2**63)))), "cut off at byte 12"),
    ],
)
def test_a_damaged_file_is_refused_before_an_image_is_read(tmp_path, content, said):
    (tmp_path / "validation-00000-of-00001").write_bytes(content)
    with raises(ValueError, said):
        open_records(tmp_path, "validation")


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (example(image__encoded=b"x", image__class__label=0), "has the label 0, which is the background"),
        (example(image=b"x", label=4), "one number, as imagenet_to_gcs writes them, and has image, label; convert"),
        (example(image__encoded=b"x", image__class__label=b"4"), "must have the features image/encoded"),
        (example(image__encoded=b"x"), "and has image/encoded; convert it"),
        (b"\xff\xff", "is damaged: a number goes on after the end; fetch the file again"),
        (b"\x0a\x7f", "is damaged: a field goes on after the end"),
        (b"\xff" * 11, "is damaged: a number has more than 64 bits"),
    ],
)
def test_an_example_that_is_none_of_imagenets_is_refused(tmp_path, record, said):
    (tmp_path / "validation-00000-of-00001").write_bytes(framed(record))
    with raises(ValueError, "record 0 of", said):
        open_records(tmp_path, "validation").read(0)


def test_a_flipped_bit_of_an_image_is_found(written, tmp_path):
    shutil.copytree(written, tmp_path / "x")
    path = tmp_path / "x" / "validation-00000-of-00002"
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    with raises(ValueError, "record 0 of", "is damaged: the checksum is wrong"):
        open_records(tmp_path / "x", "validation").read(0)


def test_a_missing_shard_is_named(written, tmp_path):
    shutil.copytree(written, tmp_path / "x")
    (tmp_path / "x" / "validation-00000-of-00002").unlink()
    with raises(ValueError, "has 1 of 2 TFRecord files", "missing: validation-00000-of-00002"):
        open_records(tmp_path / "x", "validation")


@fuzz
@given(data=st.data())
def test_any_damage_is_a_sentence_or_images(tmp_path, data):
    content = bytearray(framed(example(image__encoded=b"image", image__class__label=7), example(image__encoded=b"")))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "validation-00000-of-00001").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(ValueError):
        open_records(tmp_path, "validation").read(0)


@fuzz
@given(record=st.binary(max_size=60))
def test_any_bytes_in_a_right_frame_are_a_sentence_or_an_image(tmp_path, record):
    (tmp_path / "validation-00000-of-00001").write_bytes(framed(record))
    with contextlib.suppress(ValueError):
        assert np.isfinite(open_records(tmp_path, "validation").read(0)[0].label)


def test_a_task_may_resize_as_tensorflow_one(written, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENWORK_DATA", str(tmp_path))
    monkeypatch.setenv("OPENWORK_WORKERS", "0")
    pixels = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    write_folders(tmp_path / "noise", "val", [(buffer.getvalue(), label) for label in range(3)])
    losses = []
    for filtered in (True, False):
        torch.manual_seed(0)
        task = dataclasses.replace(TINY.task, source="noise", filtered=filtered)
        losses.append(task.evaluate(task.model(), torch.device("cpu"))["loss"])
    assert losses[0] != losses[1]
