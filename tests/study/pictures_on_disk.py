"""A small data set of images, written in each of the forms that ImageNet comes in."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

CLASSES = ("n01", "n02", "n03")


def jpeg(number: int) -> bytes:
    """A coloured image of its own size, in its own grey level, for each number."""
    random = np.random.default_rng(number)
    pixels = random.integers(0, 60, (40 + number % 3, 36 + number % 5, 3)) + 3 * (number % 60)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def images(count: int) -> list[tuple[bytes, int]]:
    """Encoded images and labels, sorted by label as folders are."""
    return sorted(((jpeg(n), n % len(CLASSES)) for n in range(count)), key=lambda pair: pair[1])


def pictures_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, *, train: int, validation: int) -> Path:
    """``folder``, named as the one of data sets, with so many images in ``pictures``; read without workers."""
    write_folders(folder / "pictures", "train", images(train))
    write_folders(folder / "pictures", "val", images(validation))
    monkeypatch.setenv("OPENWORK_DATA", str(folder))
    monkeypatch.setenv("OPENWORK_WORKERS", "0")
    return folder


def write_parquet(folder: Path, split: str, content: list[tuple[bytes | None, int]], *, shards: int = 2) -> None:
    """Row groups of 4 rows, class names in the metadata as `datasets` writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    feature = {"info": {"features": {"label": {"names": list(CLASSES), "_type": "ClassLabel"}}}}
    size = -(-len(content) // shards)
    for shard in range(shards):
        rows = content[shard * size : (shard + 1) * size]
        columns = {"image": [{"bytes": data, "path": None} for data, _ in rows], "label": [label for _, label in rows]}
        table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(feature)})
        pq.write_table(table, folder / f"{split}-{shard:05}-of-{shards:05}.parquet", row_group_size=4)


def write_folders(folder: Path, split: str, content: list[tuple[bytes, int]]) -> None:
    """A folder for each class."""
    for number, (data, label) in enumerate(content):
        path = folder / split / CLASSES[label] / f"{CLASSES[label]}_{number:04}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def write_tars(folder: Path, split: str, content: list[tuple[bytes, int]], *, shards: int = 2) -> None:
    """As WebDataset writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(content) // shards)
    for shard in range(shards):
        with tarfile.open(folder / f"imagenet1k-{split}-{shard:04}.tar", "w") as archive:
            for number, (data, label) in enumerate(content[shard * size : (shard + 1) * size]):
                for suffix, part in (("cls", str(label).encode()), ("jpg", data), ("json", b"{}")):
                    entry = tarfile.TarInfo(f"./{shard:04}/n0_{number}.{suffix}")
                    entry.size = len(part)
                    archive.addfile(entry, io.BytesIO(part))
