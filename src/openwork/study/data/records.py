"""Labelled images that stay in their files until they are read: shards of three formats, or a folder for each class."""

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from openwork.study.data.images import find_shards
from openwork.study.data.record import Record, Records
from openwork.study.data.tfrecords import TFRecords, tfrecord_shards

if TYPE_CHECKING:
    import pyarrow.parquet as pq

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp")
_TAR_BLOCK = 100  # images that are read together; a row group of the hub's image sets has as many
_TAR_END = 1024  # bytes: the two empty records that end every tar file of POSIX


def open_records(folder: Path, split: str) -> Records:
    """The images of a split, in whichever of four forms ``folder`` holds it; reads only lists of contents.

    * parquet, as `read_parquet` takes it: ``train-00000-of-00294.parquet``, also in ``data/``;
    * tar shards as WebDataset writes them: ``*train*.tar`` or ``train/*.tar``, numbered from 0, each image followed or
      preceded by a ``.cls`` file of its label;
    * TFRecord shards as the paper's code reads them: ``validation-00000-of-00128``, also in ``validation/``;
    * a folder of images for each class: ``train/n01440764/*.JPEG``; labels count the sorted names.

    Args:
        folder: The folder that holds the split.
        split: Its name; "validation" may also be called "val".

    Raises:
        FileNotFoundError: If there is no such split.
        ValueError: For two forms at once, a shard that is missing, truncated or of another format, columns of other
            types, a class without images, and a split without any.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give the one that holds the split {split!r}")
    found: list[Records] = []
    for name in (split, "val") if split == "validation" else (split,):
        if _has_parquet(folder, name):
            found.append(ParquetRecords(find_shards(folder, name)))
        if tars := _tar_shards(folder, name):
            found.append(TarRecords(tars))
        elif shards := tfrecord_shards(folder, name):
            found.append(TFRecords(shards))
        elif (folder / name).is_dir() and not any((folder / name).glob("*.parquet")):
            found.append(FolderRecords(folder / name))
    if not found:
        raise FileNotFoundError(
            f"{folder} has no split {split!r}: neither {split}*.parquet, nor {split}-*-of-*, nor "
            f"*{split}*.tar, nor a folder {split}"
        )
    if len(found) > 1:
        raise ValueError(f"{folder} holds the split {split!r} in {len(found)} forms; keep one")
    if not found[0].blocks.sum():
        raise ValueError(f"the split {split!r} of {folder} has no image; fetch it again")
    return found[0]


def _has_parquet(folder: Path, split: str) -> bool:
    return any(
        re.match(rf"{re.escape(split)}(-\d+-of-|\.parquet)", path.name)
        for path in [*folder.glob("*.parquet"), *folder.glob("*/*.parquet")]
    )


class ParquetRecords:
    """Row groups of parquet files with the Hugging Face image schema."""

    def __init__(self, paths: list[Path]) -> None:
        self.places: list[tuple[Path, int]] = []  # file and row group of each block
        sizes: list[int] = []
        self.classes: tuple[str, ...] | None = None
        for number, path in enumerate(paths):
            with _parquet(path) as file:
                names = _class_names(file, path)
                groups = range(file.metadata.num_row_groups)
                self.places += [(path, group) for group in groups]
                sizes += [file.metadata.row_group(group).num_rows for group in groups]
            if number and names != self.classes:
                raise ValueError(f"{path} names other classes than {paths[0]}; are they of one data set?")
            self.classes = names
        self.blocks = np.array(sizes, dtype=np.int64)

    def read(self, block: int) -> list[Record]:
        """The rows of a row group."""
        import pyarrow as pa

        path, group = self.places[block]
        with _parquet(path) as file:
            image = "image" if "image" in file.schema_arrow.names else "img"
            try:
                table = file.read_row_group(group, columns=[image, "label"], use_threads=False)
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"row group {group} of {path} cannot be read; fetch the file again") from error
        rows = zip(table[image].to_pylist(), table["label"].to_pylist(), strict=True)
        return [
            Record(content and content["bytes"], -1 if label is None else label, _row_name(path, group, row, content))
            for row, (content, label) in enumerate(rows)
        ]


def _row_name(path: Path, group: int, row: int, content: dict[str, Any] | None) -> str:
    inner = content.get("path") if content else None
    return f"{inner or f'row {row}'} in row group {group} of {path}"


def _parquet(path: Path) -> "pq.ParquetFile":
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError(f'reading {path} needs pyarrow: pip install "openwork[study]"') from error
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path} is not a readable parquet file, perhaps a broken download or a Git LFS pointer; fetch it again"
        ) from error


def _class_names(file: "pq.ParquetFile", path: Path) -> tuple[str, ...] | None:
    """The names of the classes, where the file tells. Raises ValueError for other columns than `read` can take."""
    import pyarrow as pa

    names = file.schema_arrow.names
    if "label" not in names or not {"image", "img"} & set(names):
        raise ValueError(f"{path} must have the columns image and label, it has {', '.join(names)}")
    image, label = (file.schema_arrow.field(name).type for name in ("image" if "image" in names else "img", "label"))
    place = image.get_field_index("bytes") if pa.types.is_struct(image) else -1
    if place < 0 or not (pa.types.is_binary(image[place].type) or pa.types.is_large_binary(image[place].type)):
        raise ValueError(
            f"image of {path} must be struct<bytes, path>, got {image}; save it with datasets' Image feature"
        )
    if not pa.types.is_integer(label):
        raise ValueError(f"label of {path} must be an integer, got {label}; number the classes")
    metadata = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
    feature = metadata.get("info", {}).get("features", {}).get("label", {})
    return tuple(feature["names"]) if feature.get("names") else None


class FolderRecords:
    """A folder for each class, with a file for each image; each image is a block."""

    def __init__(self, folder: Path) -> None:
        self.classes: tuple[str, ...] | None = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
        self.folder = folder
        self.files: list[tuple[str, int]] = []
        for label, name in enumerate(self.classes):
            files = sorted(p.name for p in (folder / name).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
            if not files:
                raise ValueError(f"the class {folder / name} has no image; labels count the folders, so remove it")
            self.files += [(f"{name}/{file}", label) for file in files]
        if not self.classes:
            raise ValueError(f"{folder} has no folder of images for each class, and no shards")
        self.blocks = np.ones(len(self.files), dtype=np.int64)

    def read(self, block: int) -> list[Record]:
        """The one image."""
        name, label = self.files[block]
        return [Record((self.folder / name).read_bytes(), label, str(self.folder / name))]


class TarRecords:
    """Neighbours in tar files, each read with one seek."""

    def __init__(self, paths: list[Path]) -> None:
        self.classes: tuple[str, ...] | None = None
        self.samples: list[tuple[Path, npt.NDArray[np.int64]]] = []  # of each block: rows of image and label spans
        for path in paths:
            spans = np.array(list(_tar_samples(path)), dtype=np.int64).reshape(-1, 4)
            self.samples += [(path, spans[at : at + _TAR_BLOCK]) for at in range(0, len(spans), _TAR_BLOCK)]
        self.blocks = np.array([len(spans) for _, spans in self.samples], dtype=np.int64)

    def read(self, block: int) -> list[Record]:
        """The images from one place of a tar file."""
        path, spans = self.samples[block]
        starts, ends = spans[:, (0, 2)], spans[:, (0, 2)] + spans[:, (1, 3)]
        begin, end = int(starts.min()), int(ends.max())
        with path.open("rb") as file:
            file.seek(begin)
            content = file.read(end - begin)
        if len(content) < end - begin:
            raise ValueError(f"{path} is shorter than when training began; fetch it again")
        records = []
        for at, size, label_at, label_size in (spans - np.array([begin, 0, begin, 0])).tolist():
            label = content[label_at : label_at + label_size].strip()
            if not re.fullmatch(rb"\d{1,9}", label):
                raise ValueError(
                    f"the label of the image at byte {begin + at} of {path} must be a number, got {label!r}"
                )
            records.append(Record(content[at : at + size], int(label), f"the image at byte {begin + at} of {path}"))
        return records


def _tar_shards(folder: Path, split: str) -> list[Path]:
    """The tar files of the split by number, each number from 0 on exactly once."""
    word = re.compile(rf"(^|[^a-z]){re.escape(split)}([^a-z]|$)")
    paths = [
        path
        for path in [*folder.glob("*.tar"), *folder.glob("*/*.tar")]
        if path.parent.name == split or word.search(path.stem)
    ]
    numbers = {path: int(digits[-1]) for path in paths if (digits := re.findall(r"\d+", path.stem))}
    if len(paths) > 1 and sorted(numbers.values()) != list(range(len(paths))):
        missing = sorted(set(range(max(numbers.values(), default=0) + 1)) - set(numbers.values()))
        raise ValueError(
            f"the {len(paths)} tar files of {split!r} in {folder} are not numbered from 0 without a gap; "
            f"missing: {', '.join(map(str, missing[:5])) or 'none, but one is there twice'}"
        )
    return sorted(paths, key=lambda path: numbers.get(path, 0))


def _tar_samples(path: Path) -> Iterator[tuple[int, int, int, int]]:
    """Start and length of each image, and of its label."""
    key = ""
    parts: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                _, dot, suffix = member.name.rpartition("/")[2].partition(".")
                if (name := member.name.removesuffix(dot + suffix)) != key:
                    yield from _complete(parts, key, path)
                    key, parts = name, {}
                kind = "image" if f".{suffix.lower()}" in IMAGE_SUFFIXES else suffix
                parts[kind] = (member.offset_data, member.size)
            _check_tar_end(path, archive.offset)
        yield from _complete(parts, key, path)
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{path} is not a whole, uncompressed tar file ({error}); fetch it again") from error


def _check_tar_end(path: Path, at: int) -> None:
    """Raises ValueError unless the file ends where its members do: tarfile takes anything but a header for the end."""
    with path.open("rb") as file:
        file.seek(at)
        end = file.read(1 << 20)  # writers pad by up to 10 kB, and a tar that was appended would come soon after
    if len(end) < _TAR_END:
        raise ValueError(f"{path} is cut off at byte {at + len(end)}: the empty end of a tar file is missing; fetch it "
                         "again")  # fmt: skip
    if any(end):
        raise ValueError(f"{path} goes on after byte {at}, where its last file ends; if two tars were put together, "
                         "take them apart, else fetch it again")  # fmt: skip


def _complete(parts: dict[str, tuple[int, int]], key: str, path: Path) -> Iterator[tuple[int, int, int, int]]:
    if parts:
        if not parts.keys() >= {"image", "cls"}:
            raise ValueError(f"{key} in {path} needs an image and a .cls file, it has {', '.join(parts)}")
        yield *parts["image"], *parts["cls"]
