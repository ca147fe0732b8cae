"""ImageNet as the paper's code has it: TFRecord shards ``validation-00000-of-00128`` of encoded images and labels.

Their labels count from 1, as 0 is a background that no image shows; ours count from 0.
"""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from openwork.formats.tensorflow.records import TAIL, checked_record, feature_names, features, record_spans
from openwork.formats.tensorflow.wire import DamagedError
from openwork.study.data.record import Record

_BLOCK = 100  # images that are read together
_IMAGE, _LABEL = "image/encoded", "image/class/label"


class TFRecords:
    """Neighbours in TFRecord files, each read with one seek.

    Args:
        paths: The shards in their order.

    Raises:
        ValueError: If one is cut off or is no TFRecord file.
    """

    classes: tuple[str, ...] | None = None

    def __init__(self, paths: list[Path]) -> None:
        self.places: list[
            tuple[Path, int, npt.NDArray[np.int64]]
        ] = []  # of each block: file, number of the first record, spans
        for path in paths:
            try:
                spans = record_spans(path)
            except DamagedError as error:
                raise ValueError(f"{path} is no whole TFRecord file: {error}; fetch it again") from error
            self.places += [(path, at, spans[at : at + _BLOCK]) for at in range(0, len(spans), _BLOCK)]
        self.blocks = np.array([len(spans) for _, _, spans in self.places], dtype=np.int64)

    def read(self, block: int) -> list[Record]:
        """The images from one place of a file."""
        path, first, spans = self.places[block]
        begin, end = int(spans[0, 0]), int(spans[-1].sum()) + TAIL
        with path.open("rb") as file:
            file.seek(begin)
            content = memoryview(file.read(end - begin))
        if len(content) < end - begin:
            raise ValueError(f"{path} is shorter than when it was opened; fetch it again")
        return [
            _record(content[at - begin : at - begin + size + TAIL], f"record {first + number} of {path}")
            for number, (at, size) in enumerate(spans.tolist())
        ]


def _record(content: memoryview, name: str) -> Record:
    try:
        example = checked_record(content)
        found = features(example, (_IMAGE, _LABEL))
        names = feature_names(example)
    except DamagedError as error:
        raise ValueError(f"{name} is damaged: {error}; fetch the file again") from error
    labels, image = found.get(_LABEL, []), found.get(_IMAGE, [])
    label = labels[0] if len(labels) == 1 else None
    if _IMAGE not in found or not isinstance(label, int):
        raise ValueError(
            f"{name} must have the features {_IMAGE} and {_LABEL}, one number, as imagenet_to_gcs writes them, and has "
            f"{', '.join(names[:6]) or 'none'}; convert it, or use a folder of images for each class"
        )
    if label == 0:
        raise ValueError(
            f"{name} has the label 0, which is the background in ImageNet's TFRecords, whose classes count from 1; is "
            "it another data set?"
        )
    encoded = image[0] if len(image) == 1 and isinstance(image[0], bytes) else None
    return Record(encoded, label - 1, name)


def tfrecord_shards(folder: Path, split: str) -> list[Path]:
    """The shards of a split by number, in the folder or in one of the split's name; an empty list if it has none.

    Args:
        folder: The folder.
        split: The name of the split.

    Raises:
        ValueError: If a shard is missing or there twice.
    """
    name = re.compile(rf"{re.escape(split)}-(\d{{5}})-of-(\d{{5}})(\.tfrecords?)?")
    paths = [*folder.glob(f"{split}-*"), *folder.glob(f"{split}/{split}-*")]
    found = [(int(match[1]), int(match[2]), path) for path in paths if (match := name.fullmatch(path.name))]
    if not found:
        return []
    numbers, total = sorted(number for number, _, _ in found), max(total for _, total, _ in found)
    if numbers != list(range(total)):
        missing = sorted(set(range(total)) - set(numbers))[:5]
        raise ValueError(
            f"{folder} has {len(found)} of {total} TFRecord files of {split!r}; "
            f"missing: {', '.join(f'{split}-{n:05}-of-{total:05}' for n in missing) or 'none, but one is there twice'}"
        )
    return [path for _, _, path in sorted(found)]
