import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from openwork.study.data.images import read_hub, read_parquet
from tests.helpers import raises
from tests.study.parquet_images import COLOUR, GREY, encode, stub_datasets, table

# --- read_parquet ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["train.parquet", "data/train.parquet", "mnist/train-00000-of-00001-0a1b.parquet"])
def test_a_split_is_found_in_the_folder_or_one_level_down(tmp_path, place):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    pq.write_table(table([encode(GREY), encode(GREY + 100)], [4, 2]), tmp_path / place)
    data = read_parquet(tmp_path, "train")
    assert (data.images.dtype, data.labels.dtype) == (torch.uint8, torch.int64)
    assert data.images.tolist() == [[GREY.tolist()], [(GREY + 100).tolist()]]
    assert data.labels.tolist() == [4, 2]


def test_colour_images_are_channels_first(tmp_path):
    pq.write_table(table([encode(COLOUR)], [0], column="img"), tmp_path / "test.parquet")
    data = read_parquet(tmp_path, "test")
    assert data.images.shape == (1, 3, 2, 3)
    assert torch.equal(data.images[0], torch.from_numpy(COLOUR).permute(2, 0, 1))


def test_jpeg_is_decoded(tmp_path):
    flat = np.full((8, 8), 77, np.uint8)
    pq.write_table(table([encode(flat, "JPEG")], [0]), tmp_path / "test.parquet")
    assert read_parquet(tmp_path, "test").images.unique().tolist() == [77]


def test_shards_are_read_in_the_order_of_their_numbers(tmp_path):
    for shard in (2, 0, 1):
        pq.write_table(table([encode(GREY)], [shard + 5]), tmp_path / f"train-0000{shard}-of-00003.parquet")
    pq.write_table(table([encode(GREY)], [9]), tmp_path / "test.parquet")
    assert read_parquet(tmp_path, "train").labels.tolist() == [5, 6, 7]


def test_folder_names_do_not_become_columns(tmp_path):
    folder = tmp_path / "label=3"
    folder.mkdir()
    pq.write_table(table([encode(GREY)], [1]), folder / "train.parquet")
    assert read_parquet(folder, "train").labels.tolist() == [1]


def test_a_missing_folder_is_named(tmp_path):
    with raises(FileNotFoundError, "there is no folder", "absent", "pass the one that holds train.parquet"):
        read_parquet(tmp_path / "absent", "train")


def test_a_missing_split_lists_what_is_there(tmp_path):
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation"):
        (tmp_path / f"{name}.parquet").touch()
    with raises(FileNotFoundError, "no split 'test', only ['train', 'validation']; choose one"):
        read_parquet(tmp_path, "test")


@pytest.mark.parametrize(
    "names",
    [
        ["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"],
        ["train-00000-of-00001.parquet", "train.parquet"],
        ["a/train.parquet", "b/train.parquet"],
        ["train-00000-of-00001.parquet", "train-00001-of-00002.parquet"],
    ],
)
def test_an_incomplete_or_doubled_split_is_an_error(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with raises(ValueError, "shards missing or stored twice", str(names), "keep one complete set"):
        read_parquet(tmp_path, "train")


@pytest.mark.parametrize("damage", ["empty", "truncated", "overwritten", "text"])
def test_a_file_that_is_not_parquet_is_named(tmp_path, damage):
    path = tmp_path / "train.parquet"
    pq.write_table(table([encode(GREY)] * 9, [0] * 9), path)
    whole = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "truncated": whole[: len(whole) // 2],
            "overwritten": whole[:4] + bytes(200) + whole[204:],
            "text": b"version https://git-lfs.github.com/spec/v1\n",
        }[damage]
    )
    with raises(ValueError, str(path), "not a readable parquet file", "fetch it again"):
        read_parquet(tmp_path, "train")


@pytest.mark.parametrize(
    ("contents", "parts"),
    [
        (table([encode(GREY), encode(GREY)[:50]], [0, 0]), ["image 1 of", "train.parquet cannot be decoded", "fetch"]),
        (table([b"", encode(GREY)], [0, 0]), ["image 0 of", "train.parquet cannot be decoded"]),
        (table([encode(GREY), None], [0, 0]), ["image 1 of", "is null or only a path; store the image's bytes"]),
        (table([encode(GREY), encode(GREY.T)], [0, 0]), ["image 1 of", "is (1, 3, 2)", "the first one is (1, 2, 3)"]),
        (table([encode(GREY), encode(COLOUR)], [0, 0]), ["image 1 of", "is (3, 2, 3)", "to one size and mode"]),
        (table([encode(GREY.astype(np.uint16))], [0]), ["8-bit grey or RGB, got Pillow's mode 'I;16'; convert it"]),
        (table([encode(GREY)] * 2, [3, -1]), ["label 1 of", "must be in [0, inf), got -1"]),
        (table([encode(GREY)] * 2, [9, 10], classes=10), ["label 1 of", "must be in [0, 10), got 10"]),
        (table([encode(GREY)] * 2, [0, None]), ["label 1 of", "is null; drop the rows"]),
        (table([encode(GREY)], ["cat"]), ["label of", "must be an integer, got string; number the classes"]),
        (table([encode(GREY)], [0], column="png"), ["no column image or img, only ['png', 'label']; rename"]),
        (table([encode(GREY)], [0]).drop_columns("label"), ["no column label, only ['image']; rename"]),
        (pa.table({"image": [encode(GREY)], "label": [0]}), ["must be struct<bytes, path>, got binary; save it with"]),
        (table([], []), ["train.parquet holds no images; is it the right split?"]),
    ],
)
def test_wrong_contents_are_named_with_the_cure(tmp_path, contents, parts):
    pq.write_table(contents, tmp_path / "train.parquet")
    with raises(ValueError, *parts):
        read_parquet(tmp_path, "train")


def test_sizes_are_compared_across_shards(tmp_path):
    pq.write_table(table([encode(GREY)], [0]), tmp_path / "train-00000-of-00002.parquet")
    pq.write_table(table([encode(GREY.T)], [0]), tmp_path / "train-00001-of-00002.parquet")
    with raises(ValueError, "image 0 of", "train-00001-of-00002.parquet is (1, 3, 2)"):
        read_parquet(tmp_path, "train")


@pytest.mark.parametrize("package", ["pyarrow", "PIL"])
def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch, package):
    pq.write_table(table([encode(GREY)], [0]), tmp_path / "train.parquet")
    monkeypatch.setitem(sys.modules, package, None)
    with raises(ImportError, 'pip install "openwork[study]"'):
        read_parquet(tmp_path, "train")


# --- read_hub -------------------------------------------------------------------------------------------------------


def test_the_hub_gives_what_a_parquet_file_gives(monkeypatch):
    calls = stub_datasets(monkeypatch, table([encode(GREY)], [6], classes=10))
    data = read_hub("ylecun/mnist", "train")
    assert calls == [("ylecun/mnist", "train")]
    assert (data.images.tolist(), data.labels.tolist()) == ([[GREY.tolist()]], [6])


def test_wrong_contents_from_the_hub_name_the_data_set(monkeypatch):
    stub_datasets(monkeypatch, table([encode(GREY)], [-1], classes=10))
    with raises(ValueError, "label 0 of ylecun/mnist (test) must be in [0, 10), got -1"):
        read_hub("ylecun/mnist", "test")


def test_a_local_folder_is_never_taken_for_the_hub(monkeypatch, tmp_path):
    calls = stub_datasets(monkeypatch, table([encode(GREY)], [6]))
    (tmp_path / "ylecun" / "mnist").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with raises(ValueError, "local path 'ylecun/mnist' hides", "read_parquet(Path('ylecun/mnist'), 'train')"):
        read_hub("ylecun/mnist", "train")
    assert calls == []


@pytest.mark.parametrize("name", ["mnist", "parquet", "./ylecun/mnist", "/ylecun/mnist", "../mnist", "hf://a/b", ""])
def test_a_hub_name_is_owner_slash_name(monkeypatch, name):
    calls = stub_datasets(monkeypatch, table([encode(GREY)], [6]))
    with raises(ValueError, f"must be 'owner/name' as on huggingface.co, got {name!r}; local files"):
        read_hub(name, "train")
    assert calls == []


def test_without_datasets_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with raises(ImportError, 'ylecun/mnist from the hub needs datasets: pip install "openwork[hub]"'):
        read_hub("ylecun/mnist", "train")


def test_an_unreachable_hub_is_a_missing_file(monkeypatch):
    stub_datasets(monkeypatch, ConnectionError("Couldn't reach the Hub"))
    with raises(FileNotFoundError, "gave no ylecun/mnist (Couldn't reach the Hub); check", "use read_parquet"):
        read_hub("ylecun/mnist", "train")


# --- digits ---------------------------------------------------------------------------------------------------------


# --- mnist ----------------------------------------------------------------------------------------------------------
