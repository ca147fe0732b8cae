"""ImageNet, 1,281,167 training and 50,000 validation images of 1,000 classes: Russakovsky et al., arXiv 1409.0575."""

import os
import re
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from openwork.study.data.record import Records
from openwork.study.data.records import open_records

IMAGES = 1_281_167  # for training
_COUNTS = {"train": IMAGES, "validation": 50_000}
HUB_NAME = "ILSVRC/imagenet-1k"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels in [0, 1]


def local_folder(source: str) -> Path:
    """Where the images of ``source`` are, if they are here: relative to OPENWORK_DATA, or to ``data`` if unset."""
    return (Path(os.environ.get("OPENWORK_DATA") or "data") / source).absolute()


def image_records(source: str, split: str) -> Records:
    """A split of the images in the folder ``source``, read as `open_records` does, or of a data set on the hub.

    Args:
        source: A folder; a relative one lies in the folder that the environment variable OPENWORK_DATA names
            (``data`` if unset). Where there is no such folder, a name of the form "owner/name" is that of a data set
            on huggingface.co, whose parquet files `huggingface_hub` downloads once.
        split: "train" or "validation".

    Raises:
        FileNotFoundError: If there is neither.
        ValueError: If `HUB_NAME` has not all of its images, and as `open_records` does.
    """
    folder = local_folder(source)
    if not folder.is_dir():
        if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source):
            raise FileNotFoundError(
                f"there is no folder {folder}; put the images there, or name another one by task.source, or its parent "
                "by the environment variable OPENWORK_DATA"
            )
        folder = _downloaded(source, split, folder)
    records = _opened(folder, split)
    found, complete = int(records.blocks.sum()), _COUNTS.get(split) if source == HUB_NAME else None
    if complete is not None and found != complete:
        raise ValueError(
            f"{folder} has {found:,} images in the split {split!r}, and {HUB_NAME} has {complete:,}; fetch what is "
            "missing, or give a sample another name and set task.source"
        )
    return records


@cache  # a sweep asks for it in every run, and lists are long
def _opened(folder: Path, split: str) -> Records:
    return open_records(folder, split)


@cache
def _downloaded(name: str, split: str, folder: Path) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise FileNotFoundError(
            f'there is no folder {folder}; put the images there, or pip install "openwork[hub]" to fetch {name}'
        ) from error
    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=[f"*{split}-*.parquet"]))
    except Exception as error:  # of several libraries: no network, no such set, terms that are not accepted
        raise FileNotFoundError(
            f"there is no folder {folder}, and the hub gave no {name} ({str(error).splitlines()[0]}); accept its terms "
            "and log in with `hf auth login`, or put the images into the folder"
        ) from error


def check_class_count(records: Records, split: str, classes: int) -> None:
    """Checks that the files name as many classes as ``classes``, if they name any.

    Args:
        records: The images.
        split: What the error calls them.
        classes: The model's number of classes.

    Raises:
        ValueError: Where they name another number.
    """
    if records.classes is not None and len(records.classes) != classes:
        raise ValueError(f"the {split} images have {len(records.classes)} classes, and the model {classes}; is a "
                         "folder missing, or is it task.classes?")  # fmt: skip


def check_same_classes(train: Records, validation: Records) -> None:
    """Checks that two splits, which must name as many classes, name the same ones.

    Raises:
        ValueError: Where they differ; names the first class that does.
    """
    if train.classes is not None and validation.classes is not None and train.classes != validation.classes:
        first = next(
            n for n, pair in enumerate(zip(train.classes, validation.classes, strict=True)) if len({*pair}) > 1
        )
        raise ValueError(
            f"class {first} is {train.classes[first]!r} in training and {validation.classes[first]!r} in validation; "
            "both splits must have the same classes"
        )


def normalized(images: Tensor, mirrored: Tensor) -> Tensor:
    """(x / 255 - mean) / std of each channel as float32, flipped left to right where ``mirrored`` says so.

    Args:
        images: (N, 3, H, W) uint8, RGB, on any device; the layout stays.
        mirrored: (N,) bool.
    """
    # Not torch.tensor: compiled, that is a constant in the host's memory, which no CUDA graph takes.
    mean, std = (
        torch.cat([torch.full((1, 1, 1), 255 * value, device=images.device) for value in values])
        for values in (_MEAN, _STD)
    )
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    return (images - mean) / std
