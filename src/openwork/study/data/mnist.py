"""MNIST, 28×28 handwritten digits: LeCun, Cortes & Burges 1998, "The MNIST database of handwritten digits"."""

import functools
import os
from pathlib import Path

from openwork.study.data.images import Images, read_hub, read_parquet

SCALE = 256.0  # not 255: as in the code of Molchanov, Ashukha & Vetrov 2017

_HUB_NAME = "ylecun/mnist"


def mnist(split: str) -> Images:
    """The images of a split, uint8 (N, 1, 28, 28), and their labels, in the canonical order.

    Read from the folder ``mnist`` in the folder that the environment variable OPENWORK_DATA names (``data`` in the
    current directory if unset), as `read_parquet` reads it; where there is no such folder, from the hub as
    ylecun/mnist. Decoded once in a process and shared by all callers, so do not write into it.

    Args:
        split: "train" (60,000 images) or "test" (10,000).

    Raises:
        ValueError: For another split, and as `read_parquet` for a damaged folder.
        FileNotFoundError: If neither place has MNIST.
    """
    if split not in ("train", "test"):
        raise ValueError(f"MNIST has the splits 'train' and 'test', got {split!r}; choose one")
    folder = Path(os.environ.get("OPENWORK_DATA") or "data") / "mnist"
    return _mnist(folder.absolute(), split)


@functools.cache  # a sweep asks for it in every run, and decoding takes seconds
def _mnist(folder: Path, split: str) -> Images:
    if folder.exists():
        return read_parquet(folder, split)
    try:
        return read_hub(_HUB_NAME, split)
    except (ImportError, FileNotFoundError) as error:
        raise FileNotFoundError(
            f"there is no MNIST in {folder} and none from the hub; put train.parquet and "
            f"test.parquet into that folder (the environment variable OPENWORK_DATA names its "
            f'parent), or pip install "openwork[hub]" and connect to the network for {_HUB_NAME}'
        ) from error
