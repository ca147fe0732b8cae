import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from openwork.study.data import mnist as mnist_module
from openwork.study.data.digits import digits
from openwork.study.data.images import centered, read_hub, read_parquet
from openwork.study.data.mnist import mnist
from tests.helpers import raises

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
needs_mnist = pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="no ../shared/data/mnist beside the checkout")

GREY = np.arange(6, dtype=np.uint8).reshape(2, 3)  # H 2, W 3
COLOUR = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)


def encode(pixels: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def table(images: list[bytes | None], labels: list, *, column: str = "image", classes: int | None = None) -> pa.Table:
    rows = pa.array(
        [{"bytes": image, "path": None} for image in images],
        pa.struct({"bytes": pa.binary(), "path": pa.string()}),
    )
    result = pa.table({column: rows, "label": pa.array(labels, None if labels else pa.int64())})
    if classes is None:
        return result
    feature = {"names": [str(n) for n in range(classes)], "_type": "ClassLabel"}
    return result.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": {"label": feature}}})})


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


def stub_datasets(monkeypatch, result: pa.Table | Exception) -> list[tuple[str, str]]:
    """Put a `datasets` in place that gives a table as `load_dataset(...).with_format("arrow")[:]` does (4.0, 5.2)."""
    calls = []

    def load_dataset(name: str, split: str):
        calls.append((name, split))
        if isinstance(result, Exception):
            raise result
        return SimpleNamespace(with_format=lambda form: {"arrow": SliceOf(result)}[form])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return calls


class SliceOf:
    def __init__(self, rows: pa.Table) -> None:
        self.rows = rows

    def __getitem__(self, key: slice) -> pa.Table:
        assert key == slice(None)
        return self.rows


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


def test_digits_are_split_into_1437_and_360():
    train, test = digits("train"), digits("test")
    assert (train.images.shape, test.images.shape) == ((1437, 1, 8, 8), (360, 1, 8, 8))
    assert (train.images.min(), train.images.max(), train.images.dtype) == (0, 16, torch.uint8)
    assert test.labels.bincount().tolist() == [36] * 10
    assert train.labels.bincount().tolist() == [142, 146, 141, 147, 145, 146, 145, 143, 138, 144]


def test_the_two_splits_are_all_digits_of_scikit_learn():
    from sklearn.datasets import load_digits

    together = torch.cat([digits("train").images, digits("test").images]).flatten(1).tolist()
    assert sorted(together) == sorted(load_digits().data.astype(int).tolist())


def test_the_split_of_the_digits_is_pinned():
    test = digits("test")
    assert test.labels[:10].tolist() == [0, 6, 0, 4, 1, 2, 3, 7, 3, 4]
    assert (int(test.images.sum()), int(digits("train").images.sum())) == (113_249, 448_469)


def test_digits_are_decoded_once():
    assert digits("train") is digits("train")


def test_another_split_of_the_digits_is_an_error():
    with raises(ValueError, "'train' and 'test', got 'validation'; choose one"):
        digits("validation")


# --- mnist ----------------------------------------------------------------------------------------------------------


@needs_mnist
def test_mnist_is_the_real_one(monkeypatch):
    monkeypatch.setenv("OPENWORK_DATA", str(SHARED))
    train = mnist("train")
    assert train.images.shape == (60_000, 1, 28, 28)
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert train.images.sum().item() / (60_000 * 784 * 255) == pytest.approx(0.1307, abs=5e-5)
    assert mnist("train") is train  # read once in a process
    test = mnist("test")
    assert test.images.shape == (10_000, 1, 28, 28)
    assert test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert centered(train, test, mnist_module.SCALE)[0].images.mean().item() == pytest.approx(0, abs=1e-6)


def test_mnist_is_looked_for_under_data_in_the_current_directory(tmp_path, monkeypatch):
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    pq.write_table(table([encode(GREY)], [7], classes=10), tmp_path / "data" / "mnist" / "test.parquet")
    monkeypatch.chdir(tmp_path)
    for unset in (None, ""):
        if unset is None:
            monkeypatch.delenv("OPENWORK_DATA", raising=False)
        else:
            monkeypatch.setenv("OPENWORK_DATA", unset)
        assert mnist("test").labels.tolist() == [7]


def test_mnist_comes_from_the_hub_where_there_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENWORK_DATA", str(tmp_path))
    calls = stub_datasets(monkeypatch, table([encode(GREY)], [7], classes=10))
    assert mnist("test").labels.tolist() == [7]
    assert mnist("test").labels.tolist() == [7]
    assert calls == [("ylecun/mnist", "test")]  # once


@pytest.mark.parametrize("offline", [None, ConnectionError("offline")])
def test_without_folder_and_hub_the_error_says_both_cures(tmp_path, monkeypatch, offline):
    monkeypatch.setenv("OPENWORK_DATA", str(tmp_path))
    if offline is None:
        monkeypatch.setitem(sys.modules, "datasets", None)
    else:
        stub_datasets(monkeypatch, offline)
    with raises(
        FileNotFoundError,
        *[f"no MNIST in {tmp_path / 'mnist'}", "put train.parquet and test.parquet into that folder", "OPENWORK_DATA"],
        *['pip install "openwork[hub]"', "ylecun/mnist"],
    ):
        mnist("test")


def test_a_damaged_folder_is_not_hidden_by_the_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENWORK_DATA", str(tmp_path))
    calls = stub_datasets(monkeypatch, table([encode(GREY)], [7]))
    (tmp_path / "mnist").mkdir()
    with raises(FileNotFoundError, "has no split 'test', only []"):
        mnist("test")
    assert calls == []


def test_another_split_of_mnist_is_an_error():
    with raises(ValueError, "MNIST has the splits 'train' and 'test', got 'train[:100]'; choose one"):
        mnist("train[:100]")
