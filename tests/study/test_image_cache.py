"""Decoded images that are kept for the next process."""

import os
import stat

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from openwork.study.data import images
from openwork.study.data.images import read_parquet
from tests.study.parquet_images import encode, table


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENWORK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(images, "_LEAST", 100)
    return tmp_path / "cache"


def write(folder, count, seed=0, split="train"):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 8, 8), dtype=np.uint8)
    folder.mkdir(exist_ok=True)
    pq.write_table(table([encode(each) for each in pixels], list(range(count))), folder / f"{split}.parquet")


@pytest.fixture
def decodings(monkeypatch):
    """How many images were decoded."""
    seen = []
    real = images._pixels
    monkeypatch.setattr(images, "_pixels", lambda encoded, name: seen.append(name) or real(encoded, name))
    return seen


def equal(one, other):
    return torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


def test_images_are_decoded_once(tmp_path, cache, decodings):
    write(tmp_path / "data", 5)
    first = read_parquet(tmp_path / "data", "train")
    again = read_parquet(tmp_path / "data", "train")
    assert equal(first, again)
    assert len(decodings) == 5
    assert first.images.stride() == again.images.stride() == (64, 64, 8, 1)
    (file,) = cache.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_coloured_images_are_kept_and_lie_in_memory_as_decoders_have_them(tmp_path, cache, decodings):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    (tmp_path / "data").mkdir()
    pq.write_table(table([encode(each) for each in pixels], list(range(4))), tmp_path / "data" / "train.parquet")
    first, again = (read_parquet(tmp_path / "data", "train") for _ in range(2))
    assert len(decodings) == 4
    assert equal(first, again)
    assert torch.equal(first.images, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert first.images.stride() == again.images.stride() == (192, 1, 24, 3)


def test_few_images_leave_no_file(tmp_path, cache, decodings):
    write(tmp_path / "data", 1)
    read_parquet(tmp_path / "data", "train")
    read_parquet(tmp_path / "data", "train")
    assert len(decodings) == 2
    assert not cache.exists()


def test_other_contents_or_another_decoder_are_other_images(tmp_path, cache, decodings, monkeypatch):
    write(tmp_path / "data", 4)
    first = read_parquet(tmp_path / "data", "train")
    write(tmp_path / "data", 4, seed=1)
    assert not torch.equal(read_parquet(tmp_path / "data", "train").images, first.images)
    assert len(decodings) == 8
    monkeypatch.setattr("openwork.study.data.cache.version", lambda _: "another")
    read_parquet(tmp_path / "data", "train")
    assert len(decodings) == 12
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("damage", [b"", b"\0" * 50])
def test_a_damaged_file_is_made_anew(tmp_path, cache, decodings, damage):
    write(tmp_path / "data", 4)
    first = read_parquet(tmp_path / "data", "train")
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage or whole[:-7])
    assert equal(read_parquet(tmp_path / "data", "train"), first)
    assert len(decodings) == 8
    assert file.read_bytes() == whole


@pytest.mark.parametrize("place", ["pixels", "labels", "shape"])
def test_a_file_with_other_bytes_is_made_anew(tmp_path, cache, decodings, place):
    write(tmp_path / "data", 4)
    first = read_parquet(tmp_path / "data", "train")
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")  # of the tensors, sorted by the size of their numbers: labels first
    damaged = bytearray(whole)
    if place == "shape":
        damaged[8:begin] = whole[8:begin].replace(b"[4,8,8,1]", b"[8,4,8,1]")
    else:
        damaged[-1 if place == "pixels" else begin] ^= 1
    file.write_bytes(damaged)
    assert damaged != whole
    assert {*load_file(file)} == {"pixels", "labels"}
    assert equal(read_parquet(tmp_path / "data", "train"), first)
    assert len(decodings) == 8
    assert file.read_bytes() == whole


def test_a_file_without_a_checksum_is_made_anew(tmp_path, cache, decodings):
    write(tmp_path / "data", 4)
    first = read_parquet(tmp_path / "data", "train")
    (file,) = cache.iterdir()
    save_file(load_file(file), file)
    assert equal(read_parquet(tmp_path / "data", "train"), first)
    assert len(decodings) == 8


def test_where_nobody_may_write_images_are_decoded_each_time(tmp_path, cache, decodings):
    cache.write_text("a file where the folder would be")
    write(tmp_path / "data", 4)
    first = read_parquet(tmp_path / "data", "train")
    assert equal(read_parquet(tmp_path / "data", "train"), first)
    assert len(decodings) == 8
    assert cache.read_text() == "a file where the folder would be"


def test_whoever_has_no_home_decodes_images_each_time(tmp_path, cache, decodings, monkeypatch):
    def expanduser(_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("OPENWORK_CACHE")
    monkeypatch.setattr("pathlib.Path.expanduser", expanduser)  # as in a container whose user has no name
    write(tmp_path / "data", 4)
    first = read_parquet(tmp_path / "data", "train")
    assert equal(read_parquet(tmp_path / "data", "train"), first)
    assert len(decodings) == 8


def test_a_kept_file_is_that_of_the_splits_own_files(tmp_path, cache):
    write(tmp_path / "data", 4)
    write(tmp_path / "data", 4, seed=1, split="test")
    train, test = (read_parquet(tmp_path / "data", split) for split in ("train", "test"))
    assert not torch.equal(train.images, test.images)
    assert equal(read_parquet(tmp_path / "data", "test"), test)
