"""Decodes images straight into batches that processes share, so that nothing large is sent from one to another."""

import mmap
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from openwork.study.data.crops import UnreadableImageError, center_box, decoded, random_box, resized, unfiltered
from openwork.study.data.order import Numbers, image_random
from openwork.study.data.record import Record, Records

IGNORED = -100  # the label of an image that cannot be decoded; the one that torch's cross-entropy ignores
_GREY = 128


@dataclass(frozen=True)
class Chunk:
    """The images that a worker reads at once, and where in the shared batches they go.

    Args:
        epoch: The epoch whose random crops are taken; -1 for centre crops.
        numbers: The images' numbers.
        slot: The shared batch they go into.
        first: The place in it of the first one.
    """

    epoch: int
    numbers: Numbers
    slot: int
    first: int


@dataclass(frozen=True)
class Answer:
    """What became of a chunk.

    Args:
        images: How many were read.
        unreadable: A sentence for each image that could not be decoded, with the reason.
        error: The error that ends the run, or "".
    """

    images: int
    unreadable: list[str]
    error: str


class SharedBatches:
    """Memory for batches, which a process shares with those that it forks.

    It has three arrays: ``images`` uint8 (slots, batch_size, size, size, 3); ``labels`` int64 and ``mirrored`` bool,
    both (slots, batch_size).

    Args:
        slots: How many batches there is room for.
        batch_size: Images of a batch.
        size: Height and width of an image in pixels.
    """

    def __init__(self, slots: int, batch_size: int, size: int) -> None:
        self.slots, self.size = slots, size
        self.images = _shared((slots, batch_size, size, size, 3), np.uint8)
        self.labels = _shared((slots, batch_size), np.int64)
        self.mirrored = _shared((slots, batch_size), np.bool_)


def _shared(shape: tuple[int, ...], dtype: type[np.generic]) -> npt.NDArray[Any]:
    # Not a file in /dev/shm, which is small in containers and where files must be removed: this memory is freed with
    # the last process that has the array.
    memory = mmap.mmap(-1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
    return np.frombuffer(memory, dtype).reshape(shape)


class ImageReader(Dataset[Answer]):
    """Decodes and crops the images of a chunk; runs in the workers.

    Args:
        records: The images.
        shared: Where the decoded images go.
        seed: Together with epoch and number, determines an image's crop and whether it is mirrored.
        classes: Labels must be below it.
        open_blocks: How many blocks are kept at most; a block is kept until all of its images have been asked for.
        filtered: Whether resizing filters where it shrinks.
    """

    def __init__(
        self,
        records: Records,
        shared: SharedBatches,
        *,
        seed: int,
        classes: int,
        open_blocks: int,
        filtered: bool = True,
    ) -> None:
        self.resized = resized if filtered else unfiltered
        self.records, self.shared, self.seed, self.classes = records, shared, seed, classes
        self.open_blocks = open_blocks
        self.ends = np.cumsum(records.blocks)
        self.open: OrderedDict[int, tuple[list[Record], list[int]]] = OrderedDict()  # rows, and how many are left

    def __getitem__(self, chunk: Chunk) -> Answer:
        """Reads the chunk into its place; an image that cannot be decoded is grey and has the label `IGNORED`."""
        mine = (chunk.slot, slice(chunk.first, chunk.first + len(chunk.numbers)))
        images, labels, mirrored = self.shared.images[mine], self.shared.labels[mine], self.shared.mirrored[mine]
        unreadable: list[str] = []
        try:
            for place, number in enumerate(chunk.numbers.tolist()):
                record = self._record(number)
                try:
                    images[place], mirrored[place] = self._image(record, chunk.epoch, number)
                    labels[place] = record.label
                except UnreadableImageError as reason:
                    images[place], mirrored[place], labels[place] = _GREY, False, IGNORED
                    unreadable.append(f"{record.name} cannot be decoded ({reason})")
        except (ValueError, OSError, ImportError) as reason:  # DataLoader would wrap it in a traceback
            return Answer(len(labels), unreadable, str(reason))
        return Answer(len(labels), unreadable, "")

    def _record(self, number: int) -> Record:
        block = int(np.searchsorted(self.ends, number, side="right"))
        size = int(self.records.blocks[block])
        if block not in self.open:
            if len(self.open) >= self.open_blocks:
                self.open.popitem(last=False)
            self.open[block] = (self.records.read(block), [size])
        self.open.move_to_end(block)
        rows, left = self.open[block]
        left[0] -= 1
        if not left[0]:
            del self.open[block]
        record = rows[number - int(self.ends[block]) + size]
        if not 0 <= record.label < self.classes:
            raise ValueError(
                f"the label of {record.name} must be in [0, {self.classes}), got {record.label}; is it a test split "
                "whose labels are secret, or another set of classes?"
            )
        return record

    def _image(self, record: Record, epoch: int, number: int) -> tuple[npt.NDArray[np.uint8], bool]:
        if record.encoded is None:
            raise UnreadableImageError("the file holds no bytes for it, perhaps only a path")
        image = decoded(record.encoded)
        height, width, _ = image.shape
        if epoch < 0:
            return self.resized(image, center_box(height, width), self.shared.size), False
        random = image_random(self.seed, epoch, number)
        box, mirrored = random_box(height, width, random), bool(random.random() < 0.5)
        return self.resized(image, box, self.shared.size), mirrored
