"""CIFAR-10, 32×32 colour images of ten classes: Krizhevsky 2009, "Learning Multiple Layers of Features"."""

import functools
import os
from pathlib import Path

import torch
from torch import Tensor

from openwork.study.data.images import Images, read_hub, read_parquet

_HUB_NAME = "uoft-cs/cifar10"
# Of pixels in [0, 255], red, green and blue: the usual numbers in code for wide residual networks.
_MEAN, _STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)


def cifar10(split: str, *, jpeg: bool = False) -> Images:
    """The images of a split, uint8 (N, 3, 32, 32), and their labels, in the order of the files.

    Read from the folder ``cifar10`` in the folder that the environment variable OPENWORK_DATA names (``data`` in the
    current directory if unset), as `read_parquet` reads it; where there is no such folder, from the hub as
    uoft-cs/cifar10. Decoded once in a process and shared by all callers, so do not write into it.

    Args:
        split: "train" (50,000 images) or "test" (10,000).
        jpeg: Read a copy that was compressed as JPEG, with loss, from the folder ``cifar10-jpeg`` alone. It is another
            data set, whose accuracies are not comparable with published ones.

    Raises:
        ValueError: For another split, and as `read_parquet` for a damaged folder.
        FileNotFoundError: If the copy is nowhere.
    """
    if split not in ("train", "test"):
        raise ValueError(f"CIFAR-10 has the splits 'train' and 'test', got {split!r}; choose one")
    return _cifar10(_folder(jpeg), split, jpeg)


def only_jpeg() -> bool:
    """Whether the folder of data sets holds the JPEG copy and not the lossless one."""
    return _folder(jpeg=True).exists() and not _folder(jpeg=False).exists()


def normalized(images: Tensor) -> Tensor:
    """(x − mean) / std of each channel, float32, of images (N, 3, H, W) with values in [0, 255], in their layout."""
    mean, std = _statistics(images.device)
    return (images - mean).div_(std)


@functools.cache  # copied to the device once, not at each step
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (_MEAN, _STD))
    return mean, std


def _folder(jpeg: bool) -> Path:
    return (Path(os.environ.get("OPENWORK_DATA") or "data") / ("cifar10-jpeg" if jpeg else "cifar10")).absolute()


@functools.cache  # a sweep asks for it in every run, and decoding takes seconds
def _cifar10(folder: Path, split: str, jpeg: bool) -> Images:
    if folder.exists():
        return read_parquet(folder, split)
    if jpeg:
        raise FileNotFoundError(
            f"there is no JPEG copy of CIFAR-10 in {folder}; put train.parquet and test.parquet into that folder (the "
            "environment variable OPENWORK_DATA names its parent), or use the lossless images with jpeg=False"
        )
    try:
        return read_hub(_HUB_NAME, split)
    except (ImportError, FileNotFoundError) as error:
        raise FileNotFoundError(
            f"there is no CIFAR-10 in {folder} and none from the hub; put train.parquet and test.parquet into that "
            "folder (the environment variable OPENWORK_DATA names its parent), or pip install "
            f'"openwork[hub]" and connect to the network for {_HUB_NAME}'
        ) from error
