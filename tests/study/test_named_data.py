"""The digits of scikit-learn, and MNIST."""

import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from openwork.study.data import mnist as mnist_module
from openwork.study.data.digits import digits
from openwork.study.data.images import centered
from openwork.study.data.mnist import mnist
from tests.helpers import raises
from tests.study.parquet_images import GREY, encode, stub_datasets, table

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
needs_mnist = pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="no ../shared/data/mnist beside the checkout")


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
