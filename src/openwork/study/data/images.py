"""Labelled images as two tensors, read from parquet files with the Hugging Face image schema or from the hub."""

import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openwork.study.data.cache import kept

if TYPE_CHECKING:
    import pyarrow as pa

_LEAST = 2**20  # bytes of images that are worth a file: to decode them takes a twentieth of a second


@dataclass(frozen=True, eq=False)  # == of two tensors is a tensor, not a bool
class Images:
    """N labelled images of one size.

    Args:
        images: (N, C, H, W), uint8 as read or float32 once `centered`.
        labels: (N,) int64, on the same device.

    Raises:
        ValueError: For any other dtype or shape, and for unequal N.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.dtype not in (torch.uint8, torch.float32):
            raise ValueError(
                f"images must be (N, C, H, W) in uint8 or float32, got {tuple(images.shape)} in "
                f"{images.dtype}; add the missing dimension or convert"
            )
        if labels.ndim != 1 or labels.dtype != torch.int64:
            raise ValueError(
                f"labels must be (N,) in int64, got {tuple(labels.shape)} in {labels.dtype}; "
                f"flatten or convert with .long()"
            )
        if len(images) != len(labels) or images.device != labels.device:
            raise ValueError(
                f"every image needs its label on the same device, got {len(images)} images on "
                f"{images.device} and {len(labels)} labels on {labels.device}"
            )


def centered(train: Images, test: Images, scale: float) -> tuple[Images, Images]:
    """Both sets as float32 ``x / scale − mean``, where ``mean`` (C, H, W) is the mean of ``train.images / scale``.

    The preprocessing of Molchanov, Ashukha & Vetrov 2017 (arXiv:1701.05369; their code). The result is the same on CPU
    and GPU, to the last bit.

    Args:
        train: The training set, uint8.
        test: The test set, uint8.
        scale: What values are divided by; above 0, 256 for MNIST.

    Raises:
        ValueError: If either set is not uint8, if train is empty, if the image sizes differ, or unless scale > 0.
    """
    if train.images.dtype != torch.uint8 or test.images.dtype != torch.uint8:
        raise ValueError(
            f"centered takes the uint8 images as read, got {train.images.dtype} and "
            f"{test.images.dtype}; were they centered before?"
        )
    if train.images.shape[1:] != test.images.shape[1:]:
        raise ValueError(
            f"train and test images must have one size, got {tuple(train.images.shape[1:])} and "
            f"{tuple(test.images.shape[1:])}; are they of the same data set?"
        )
    if not len(train.images):
        raise ValueError("the mean image needs training images, got none; is the split right?")
    if not scale > 0:
        raise ValueError(f"scale must be > 0, got {scale}; it is 256 for MNIST, 16 for the digits")
    mean = (train.images.sum(0).cpu().double() / (len(train.images) * scale)).float()
    return _minus(train, mean, scale), _minus(test, mean, scale)


def _minus(data: Images, mean: Tensor, scale: float) -> Images:
    # CUDA multiplies by the reciprocal of a Python number, but divides by a tensor on its device, as the CPU does.
    divisor = torch.tensor(scale, dtype=torch.float32, device=data.images.device)
    return Images((data.images / divisor).sub_(mean.to(data.images.device)), data.labels)


def on_device(device: torch.device, splits: tuple[Images, Images]) -> tuple[Images, Images]:
    """Both sets on the device."""
    train, test = (Images(split.images.to(device), split.labels.to(device)) for split in splits)
    return train, test


def read_parquet(folder: Path, split: str) -> Images:
    """The images of one split of a local data set, uint8 (N, C, H, W), in the order of the files.

    The files have two columns: ``image`` (or ``img``), struct<bytes, path>, PNG or JPEG, grey (C = 1) or RGB (C = 3);
    and ``label``, an integer in [0, classes), where classes is the number of class names in the file's metadata, if it
    has any. Of many images the next process finds the decoded ones in the `cache_folder`.

    Args:
        folder: Holds ``{split}.parquet`` or ``{split}-00000-of-00003.parquet`` and so on, directly or one level down
            (``data/`` or a configuration's name, as on the hub).
        split: The name of the split.

    Raises:
        FileNotFoundError: If the folder or the split is missing.
        ValueError: If shards are missing or stored twice, a file is not parquet, a column is missing, an image or label
            is missing or invalid, image sizes differ, or there is no image at all.
    """
    files = find_shards(folder, split)

    def decoded() -> dict[str, Tensor]:
        found = _decode((str(path), _table(path)) for path in files)
        # With the channels last, as decoders have them: safetensors wants memory in the order of the axes.
        return {"pixels": found.images.movedim(1, -1).contiguous(), "labels": found.labels}

    found = kept("pixels", files, decoded, least=_LEAST)
    pixels = found["pixels"]
    # The stride of a single channel decides which convolution torch takes: always that of a grey image as decoded.
    images = pixels.movedim(-1, 1) if pixels.shape[-1] > 1 else pixels.squeeze(-1).unsqueeze(1)
    return Images(images, found["labels"])


def read_hub(name: str, split: str) -> Images:
    """The images of one split of a data set on huggingface.co, uint8 (N, C, H, W), downloaded once by `datasets`.

    Args:
        name: "owner/name" on the hub. The columns are as for `read_parquet`.
        split: The name of the split.

    Raises:
        ImportError: Without `datasets`.
        FileNotFoundError: If the hub cannot be reached or has no such set.
        ValueError: For another form of name, for a name that `datasets` would take for a local path, and for the
            contents as `read_parquet` does.
    """
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        raise ValueError(
            f"name must be 'owner/name' as on huggingface.co, got {name!r}; local files are for read_parquet"
        )
    # datasets prefers a local folder of that name, and would read whatever lies there.
    if Path(name).exists():
        raise ValueError(
            f"the local path {name!r} hides the data set of that name on the hub; work in another "
            f"directory, or read the path with read_parquet(Path({name!r}), {split!r})"
        )
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f'reading {name} from the hub needs datasets: pip install "openwork[hub]"') from error
    try:
        loaded = datasets.load_dataset(name, split=split)
    except (ConnectionError, FileNotFoundError) as error:
        raise FileNotFoundError(
            f"the hub gave no {name} ({error}); check the name and the network, or fetch its "
            f"parquet files elsewhere and use read_parquet"
        ) from error
    return _decode([(f"{name} ({split})", loaded.with_format("arrow")[:])])


_FILE = re.compile(
    r"(?P<split>.+?)(-(?P<number>\d+)-of-(?P<total>\d+)(-[0-9a-f]+)?)?\.parquet"
)  # the hub's older files end in a hash


def find_shards(folder: Path, split: str) -> list[Path]:
    """The parquet files of the split by shard number, each shard exactly once.

    Args:
        folder: As for `read_parquet`.
        split: The name of the split.

    Raises:
        FileNotFoundError: If the folder or the split is missing.
        ValueError: If shards are missing or stored twice.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; pass the one that holds {split}.parquet")
    found: dict[str, dict[Path, re.Match[str]]] = {}
    for path in [*folder.glob("*.parquet"), *folder.glob("*/*.parquet")]:
        if (match := _FILE.fullmatch(path.name)) and path.is_file():
            found.setdefault(match["split"], {})[path] = match
    if split not in found:
        raise FileNotFoundError(
            f"{folder} has no split {split!r}, only {sorted(found)}; choose one of those or add {split}.parquet"
        )
    files = found[split]
    numbers = {path: int(match["number"] or 0) for path, match in files.items()}
    totals = {int(match["total"] or 1) for match in files.values()}
    if len(totals) > 1 or sorted(numbers.values()) != list(range(max(totals))):
        names = sorted(str(path.relative_to(folder)) for path in files)
        raise ValueError(
            f"split {split!r} of {folder} has shards missing or stored twice: {names}; keep one complete set"
        )
    return sorted(files, key=lambda path: numbers[path])


def _table(path: Path) -> "pa.Table":
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError(f'reading {path} needs pyarrow: pip install "openwork[study]"') from error
    try:
        # Not read_table, which would make columns of folder names such as "split=train".
        with pq.ParquetFile(path) as file:
            return file.read()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path} is not a readable parquet file, perhaps a broken download or a Git LFS pointer; fetch it again"
        ) from error


def _decode(tables: Iterable[tuple[str, "pa.Table"]]) -> Images:
    """The rows of all tables; the name of each table is for the errors."""
    names: list[str] = []
    pixels: list[npt.NDArray[np.uint8]] = []
    labels: list[npt.NDArray[np.int64]] = []
    for name, table in tables:
        names.append(name)
        labels.append(_labels(table, name))
        for row, encoded in enumerate(_encoded(table, name)):
            image = _pixels(encoded, f"image {row} of {name}")
            if pixels and image.shape != pixels[0].shape:
                raise ValueError(
                    f"image {row} of {name} is {image.shape} (C, H, W) but the first one is "
                    f"{pixels[0].shape}; bring all images to one size and mode"
                )
            pixels.append(image)
    if not pixels:
        raise ValueError(f"{', '.join(names)} holds no images; is it the right split?")
    return Images(torch.from_numpy(np.stack(pixels)), torch.from_numpy(np.concatenate(labels)))


def _column(table: "pa.Table", choices: tuple[str, ...], name: str) -> Any:
    for choice in choices:
        if choice in table.column_names:
            return table[choice]
    raise ValueError(f"{name} has no column {' or '.join(choices)}, only {table.column_names}; rename the right one")


def _labels(table: "pa.Table", name: str) -> npt.NDArray[np.int64]:
    import pyarrow as pa

    column = _column(table, ("label",), name)
    if not pa.types.is_integer(column.type):
        raise ValueError(f"label of {name} must be an integer, got {column.type}; number the classes")
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise ValueError(f"label {row} of {name} is null; drop the rows without a label")
    labels: npt.NDArray[np.int64] = column.cast(pa.int64()).to_numpy()
    classes = _classes(table)
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise ValueError(
            f"label {wrong[0]} of {name} must be in [0, {classes}), got {labels[wrong[0]]}; is it a "
            f"test split whose labels are secret?"
        )
    return labels


def _classes(table: "pa.Table") -> float:
    """How many classes the `datasets` metadata names; infinity if it does not say."""
    metadata = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = metadata.get("info", {}).get("features", {}).get("label", {})
    return len(feature["names"]) if feature.get("names") else float("inf")


def _encoded(table: "pa.Table", name: str) -> Iterable[bytes | None]:
    import pyarrow as pa

    column = _column(table, ("image", "img"), name)
    if not pa.types.is_struct(column.type) or column.type.get_field_index("bytes") < 0:
        raise ValueError(
            f"image of {name} must be struct<bytes, path>, got {column.type}; save it with datasets' Image feature"
        )
    return (None if image is None else image["bytes"] for image in column.to_pylist())


def _pixels(encoded: bytes | None, name: str) -> npt.NDArray[np.uint8]:
    """(1, H, W) for a grey image, (3, H, W) for a coloured one."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(f'decoding {name} needs Pillow: pip install "openwork[study]"') from error
    if encoded is None:
        raise ValueError(f"{name} is null or only a path; store the image's bytes in the file")
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            mode, pixels = image.mode, np.asarray(image)
    except Exception as error:  # Pillow: OSError, SyntaxError, ValueError, struct.error and others
        raise ValueError(f"{name} cannot be decoded as PNG or JPEG; fetch the file again") from error
    if mode == "L":
        return pixels[None]
    if mode == "RGB":
        return pixels.transpose(2, 0, 1)
    raise ValueError(f"{name} must be 8-bit grey or RGB, got Pillow's mode {mode!r}; convert it")
