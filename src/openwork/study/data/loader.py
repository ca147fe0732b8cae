"""Large image sets on their way to the device: decoded and cropped by worker processes, in an order fixed beforehand.

What is in a batch depends on (seed, step) and on how the files form blocks (see `order`), never on the number of
workers or processes. Images travel as bytes; mirroring and normalising are left to the device.
"""

import os
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from openwork.study.data.crops import UnreadableImageError, center_box, decoded, random_box, resized
from openwork.study.data.order import Numbers, batch_count, epoch_order, image_random, streams
from openwork.study.data.records import Record, Records

IGNORED = -100  # the label of an image that cannot be decoded; the one that torch's cross-entropy ignores
_FEW = 10  # images that cannot be decoded before their share counts
_PREFETCH = 3  # batches that each worker is ahead


@dataclass(frozen=True)
class Chunk:
    """What a worker reads at once: images by number, with the epoch's random crops, or centre crops where it is -1."""

    epoch: int
    numbers: Numbers


@dataclass
class Batch:
    """Images uint8 (n, 3, size, size) in channels_last, labels int64 (n,), and which are to be mirrored, bool (n,)."""

    images: Tensor
    labels: Tensor
    mirrored: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def parts(self, count: int) -> "list[Batch]":
        """The batch in ``count`` equal parts."""
        tensors = (self.images.chunk(count), self.labels.chunk(count), self.mirrored.chunk(count))
        return [Batch(*part) for part in zip(*tensors, strict=True)]


class ImageReader(Dataset[tuple[Tensor, Tensor, Tensor, list[str], str]]):
    """Decodes and crops the images of a chunk; runs in the workers.

    A block is kept until all of its images have been asked for; ``open_blocks`` is how many are kept at most.
    """

    def __init__(self, records: Records, *, size: int, seed: int, classes: int, open_blocks: int) -> None:
        self.records, self.size, self.seed, self.classes = records, size, seed, classes
        self.open_blocks = open_blocks
        self.ends = np.cumsum(records.blocks)
        self.open: OrderedDict[int, tuple[list[Record], list[int]]] = OrderedDict()  # rows, and how many are left

    def __getitem__(self, chunk: Chunk) -> tuple[Tensor, Tensor, Tensor, list[str], str]:
        """Images, labels, mirrored, what could not be decoded and why, and the error that ends it all or ""."""
        pixels = np.full((len(chunk.numbers), self.size, self.size, 3), 128, dtype=np.uint8)
        labels = np.full(len(chunk.numbers), IGNORED, dtype=np.int64)
        mirrored = np.zeros(len(chunk.numbers), dtype=np.bool_)
        unreadable: list[str] = []
        error = ""
        try:
            for place, number in enumerate(chunk.numbers.tolist()):
                record = self._record(number)
                try:
                    pixels[place], mirrored[place] = self._image(record, chunk.epoch, number)
                    labels[place] = record.label
                except UnreadableImageError as reason:
                    unreadable.append(f"{record.name} cannot be decoded ({reason})")
        except (ValueError, OSError, ImportError) as reason:  # DataLoader would wrap it into a traceback
            error = str(reason)
        return torch.from_numpy(pixels), torch.from_numpy(labels), torch.from_numpy(mirrored), unreadable, error

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
            return resized(image, center_box(height, width), self.size), False
        random = image_random(self.seed, epoch, number)
        box, mirrored = random_box(height, width, random), bool(random.random() < 0.5)
        return resized(image, box, self.size), mirrored


class Unreadable:
    """Counts the images that cannot be decoded and reports them as warnings; too many end the run."""

    def __init__(self) -> None:
        self.seen, self.count = 0, 0

    def add(self, images: int, reasons: Sequence[str]) -> None:
        """Raises ValueError once more than 10 images and 1 % of those seen cannot be decoded."""
        self.seen += images
        for reason in reasons:
            self.count += 1
            if self.count <= _FEW or self.count % 100 == 0:
                warnings.warn(f"{reason}; it is left out, the {self.count}. of {self.seen:,} images", stacklevel=2)
        if self.count > _FEW + self.seen // 100:
            raise ValueError(f"{self.count} of {self.seen:,} images cannot be decoded, the last one: {reasons[-1]}")


def training_batches(
    records: Records,
    batch_size: int,
    *,
    size: int,
    classes: int,
    seed: int,
    start: int,
    device: torch.device,
    rank: int = 0,
    processes: int = 1,
) -> Iterator[Batch]:
    """Endless shares of process ``rank`` in the batches of ``batch_size`` images, from batch ``start`` on.

    All processes' shares of a step, one after the other, are the same batch whatever their number. An image that cannot
    be decoded is grey, has the label `IGNORED`, and is warned of. Raises ValueError where batch_size is more than there
    are images or does not divide by ``processes``, and as `Records.read` and `Unreadable.add` do;
    OSError where a worker dies.
    """
    steps = batch_count(int(records.blocks.sum()), batch_size)
    if batch_size % processes:
        raise ValueError(f"batch_size {batch_size} must divide by the number of processes, {processes}")
    mine = slice(batch_size // processes * rank, batch_size // processes * (rank + 1))
    workers = _workers()
    # Not one worker more than there are streams, which two workers would both read.
    pieces = max(min(workers, streams(batch_size) // processes), 1)

    def chunks() -> Iterator[Chunk]:
        epoch, first = divmod(start, steps)
        while True:
            order = epoch_order(records.blocks, batch_size, seed=seed, epoch=epoch)
            for numbers in order[first:, mine]:
                yield from (Chunk(epoch, piece) for piece in np.array_split(numbers, pieces))
            epoch, first = epoch + 1, 0

    # A stream has one block open, or two that it shares with its neighbours.
    open_blocks = 3 * (streams(batch_size) // (processes * pieces) + 1)
    reader = ImageReader(records, size=size, seed=seed, classes=classes, open_blocks=open_blocks)
    counter = Unreadable()
    answers = _read(reader, chunks(), workers=pieces if workers else 0, device=device)
    while True:
        yield _joined([next(answers) for _ in range(pieces)], counter, device)


def evaluation_batches(
    records: Records, numbers: range, batch_size: int, *, size: int, classes: int, device: torch.device
) -> Iterator[Batch]:
    """Centre crops of the images ``numbers``, each once and in order; the last batch is what is left.

    An image that cannot be decoded has the label `IGNORED`. Raises ValueError as `training_batches` does.
    """
    firsts = range(numbers.start, numbers.stop, batch_size)
    chunks = [Chunk(-1, np.arange(first, min(first + batch_size, numbers.stop))) for first in firsts]
    reader = ImageReader(records, size=size, seed=0, classes=classes, open_blocks=1)
    counter = Unreadable()
    for answer in _read(reader, iter(chunks), workers=min(_workers(), len(chunks)), device=device):
        yield _joined([answer], counter, device)


def _workers() -> int:
    """OPENWORK_WORKERS, or the cores of this machine shared among its processes."""
    if given := os.environ.get("OPENWORK_WORKERS"):
        if not given.isdecimal():
            raise ValueError(f"OPENWORK_WORKERS must be a number of processes, 0 for none, got {given!r}")
        return int(given)
    return max(len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)


def _read(reader: ImageReader, chunks: Iterator[Chunk], *, workers: int, device: torch.device) -> Iterator[Any]:
    # The sampler is read on, and its items given to the workers in turn, so that each keeps its streams. With a
    # generator of its own the loader does not draw from torch's, on which resuming depends.
    loader: DataLoader[Any] = DataLoader(
        reader,
        batch_size=None,
        sampler=_Once(chunks),
        num_workers=workers,
        prefetch_factor=_PREFETCH if workers else None,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise OSError(
            "a process that reads images died, perhaps for want of memory or of room in /dev/shm; start fewer with "
            "the environment variable OPENWORK_WORKERS, or give the container more (docker run --shm-size=8g)"
        ) from error


class _Once:
    """An iterator as the sampler that DataLoader wants: something to iterate over."""

    def __init__(self, chunks: Iterator[Chunk]) -> None:
        self.chunks = chunks

    def __iter__(self) -> Iterator[Chunk]:
        return self.chunks


def _joined(answers: list[Any], counter: Unreadable, device: torch.device) -> Batch:
    for *_, error in answers:
        if error:
            raise ValueError(error)
    columns = [[answer[place].to(device, non_blocking=True) for answer in answers] for place in range(3)]
    images, labels, mirrored = (torch.cat(column) for column in columns)
    counter.add(len(labels), [reason for answer in answers for reason in answer[3]])
    return Batch(images.permute(0, 3, 1, 2), labels, mirrored)
