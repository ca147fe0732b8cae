"""Large image sets on their way to the device: decoded and cropped by worker processes, in an order fixed beforehand.

The contents of a batch depend on (seed, step) and on how the files form blocks (see `order`), never on the number of
workers or processes. Images travel as bytes; the device mirrors and normalises them. Workers take turns to write into a
few batches in shared memory, and tell the main process when they are done; it copies a whole batch at once.
"""

import itertools
import math
import os
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from openwork.study.data.order import Numbers, batch_count, epoch_order, streams
from openwork.study.data.reader import Answer, Chunk, ImageReader, SharedBatches
from openwork.study.data.record import Records

_FEW = 10  # images that cannot be decoded before their share counts
_PREFETCH = 3  # chunks that each worker is ahead


@dataclass
class ImageBatch:
    """A batch of n images.

    Args:
        images: uint8 (n, 3, size, size) in channels_last.
        labels: int64 (n,).
        mirrored: bool (n,): which images the device should mirror.
    """

    images: Tensor
    labels: Tensor
    mirrored: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def parts(self, count: int) -> "list[ImageBatch]":
        """The batch in ``count`` equal parts."""
        tensors = (self.images.chunk(count), self.labels.chunk(count), self.mirrored.chunk(count))
        return [ImageBatch(*part) for part in zip(*tensors, strict=True)]


class Unreadable:
    """Counts the images that cannot be decoded and reports them as warnings; too many end the run.

    It warns of the first 10, and then of the 100th, the 1,000th and so on.

    Args:
        fate: What becomes of such an image, for the warning: "counts as wrong".
    """

    def __init__(self, fate: str) -> None:
        self.fate, self.seen, self.count = fate, 0, 0

    def add(self, images: int, reasons: Sequence[str]) -> None:
        """Counts ``images`` that were read, and warns of those that cannot be decoded.

        Args:
            images: How many were read, with those that cannot be decoded.
            reasons: A sentence for each that cannot be decoded.

        Raises:
            ValueError: Once more than 10 images and 1 % of those seen cannot be decoded.
        """
        self.seen += images
        for reason in reasons:
            self.count += 1
            if self.count <= _FEW or self.count == 10 ** (len(str(self.count)) - 1):
                text = f"{reason}; it {self.fate}, as {self.count:,} of {self.seen:,} images so far in this process"
                warnings.warn(text, stacklevel=2)
        if self.count > _FEW + self.seen // 100:
            raise ValueError(f"{self.count:,} of {self.seen:,} images cannot be decoded, the last one: {reasons[-1]}")


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
    filtered: bool = True,
) -> Iterator[ImageBatch]:
    """Endless shares of process ``rank`` in the batches of ``batch_size`` images, from batch ``start`` on.

    All processes' shares of a step, one after the other, are the same batch whatever their number. An image that cannot
    be decoded is grey and has the label `IGNORED`; `Unreadable` warns of it.

    Args:
        records: The training split.
        batch_size: Images of a step, over all processes.
        size: Height and width of a crop in pixels.
        classes: Labels must be below it.
        seed: Determines order, crops and mirroring, together with the epoch.
        start: Number of the first batch.
        device: Where the batches go.
        rank: Number of this process.
        processes: How many processes share each batch.
        filtered: As `ImageReader` has it.

    Raises:
        ValueError: If batch_size is more than there are images or does not divide by ``processes``, and as
            `Records.read` and `Unreadable.add` do.
        OSError: If a worker dies.
    """
    steps = batch_count(int(records.blocks.sum()), batch_size)
    if batch_size % processes:
        raise ValueError(f"batch_size {batch_size} must divide by the number of processes, {processes}")
    mine = slice(batch_size // processes * rank, batch_size // processes * (rank + 1))
    # Not one worker more than there are streams, which two workers would both read.
    workers = min(_workers(), max(streams(batch_size) // processes, 1))
    pieces = max(workers, 1)  # so that each worker keeps its streams

    def contents() -> Iterator[tuple[int, Numbers]]:
        epoch, first = divmod(start, steps)
        while True:
            order = epoch_order(records.blocks, batch_size, seed=seed, epoch=epoch)
            yield from ((epoch, numbers) for numbers in order[first:, mine])
            epoch, first = epoch + 1, 0

    shared = SharedBatches(_slots(workers, pieces), batch_size // processes, size)
    # A stream has one block open, or two that it shares with its neighbours.
    open_blocks = 3 * (streams(batch_size) // (processes * pieces) + 1)
    reader = ImageReader(records, shared, seed=seed, classes=classes, open_blocks=open_blocks, filtered=filtered)
    counter = Unreadable("is left out of the loss")
    yield from _batches(reader, contents(), counter, pieces=pieces, workers=workers, device=device)


def evaluation_batches(
    records: Records,
    numbers: range,
    batch_size: int,
    *,
    size: int,
    classes: int,
    device: torch.device,
    filtered: bool = True,
) -> Iterator[ImageBatch]:
    """Centre crops of the images ``numbers``, each once and in order; the last batch holds the rest.

    An image that cannot be decoded has the label `IGNORED`.

    Args:
        records: The split to evaluate on.
        numbers: The images' numbers in it.
        batch_size: Images of a batch.
        size: Height and width of a crop in pixels.
        classes: Labels must be below it.
        device: Where the batches go.
        filtered: As `ImageReader` has it.

    Raises:
        ValueError: As for `training_batches`.
    """
    firsts = range(numbers.start, numbers.stop, batch_size)
    contents = [(-1, np.arange(first, min(first + batch_size, numbers.stop))) for first in firsts]
    workers = min(_workers(), len(contents))
    shared = SharedBatches(_slots(workers, 1), batch_size, size)
    reader = ImageReader(records, shared, seed=0, classes=classes, open_blocks=1, filtered=filtered)
    counter = Unreadable("counts as wrong")
    yield from _batches(reader, contents, counter, pieces=1, workers=workers, device=device)


def _batches(
    reader: ImageReader,
    contents: Iterable[tuple[int, Numbers]],
    counter: Unreadable,
    *,
    pieces: int,
    workers: int,
    device: torch.device,
) -> Iterator[ImageBatch]:
    """The images that ``contents`` names by epoch and numbers; the workers take the ``pieces`` of a batch in turn."""
    shared = reader.shared

    def chunks() -> Iterator[Chunk]:
        for (epoch, numbers), slot in zip(contents, itertools.cycle(range(shared.slots)), strict=False):
            for piece in range(pieces):
                first, end = (len(numbers) * place // pieces for place in (piece, piece + 1))
                yield Chunk(epoch, numbers[first:end], slot, first)

    answers = _read(reader, chunks(), workers=workers)
    for slot in itertools.cycle(range(shared.slots)):
        batch = list(itertools.islice(answers, pieces))
        if not batch:
            return
        for answer in batch:
            if answer.error:
                raise ValueError(answer.error)
        count = sum(answer.images for answer in batch)
        images, labels, mirrored = (
            _copied(array[slot, :count], device) for array in (shared.images, shared.labels, shared.mirrored)
        )
        counter.add(count, [reason for answer in batch for reason in answer.unreadable])
        yield ImageBatch(images.permute(0, 3, 1, 2), labels, mirrored)


def _slots(workers: int, pieces: int) -> int:
    # DataLoader hands out another chunk with each answer that is taken, so that _PREFETCH * workers are under way;
    # while one batch is copied, these are the batches after it.
    return 1 + math.ceil(_PREFETCH * workers / pieces)


def _copied(shared: npt.NDArray[Any], device: torch.device) -> Tensor:
    """A copy on the device; ``shared`` may be written to again at once."""
    # By numpy, in one thread: torch would use all cores, which are busy decoding.
    if device.type != "cuda":
        return torch.from_numpy(shared.copy()).to(device)
    pinned = torch.empty_like(torch.from_numpy(shared), pin_memory=True)
    pinned.numpy()[:] = shared
    return pinned.to(device, non_blocking=True)  # torch reuses pinned memory only when the copy is done


def _workers() -> int:
    """OPENWORK_WORKERS, or the cores of this machine shared among its processes."""
    if given := os.environ.get("OPENWORK_WORKERS"):
        if not given.isdecimal():
            raise ValueError(f"OPENWORK_WORKERS must be a number of processes, 0 for none, got {given!r}")
        return int(given)
    return max(len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)


def _read(reader: ImageReader, chunks: Iterator[Chunk], *, workers: int) -> Iterator[Answer]:
    # The loader reads the sampler and gives its items to the workers in turn, so that each keeps its streams. With a
    # separate generator it does not draw from torch's, on which resuming depends.
    loader: DataLoader[Answer] = DataLoader(
        reader,
        batch_size=None,
        sampler=_Once(chunks),
        num_workers=workers,
        prefetch_factor=_PREFETCH if workers else None,
        multiprocessing_context="fork" if workers else None,  # what `SharedBatches` needs
        generator=torch.Generator(),
    )
    handler = signal.getsignal(signal.SIGCHLD)
    answers = iter(loader)
    if threading.current_thread() is threading.main_thread() and handler is not None:
        # Torch's handler would raise in the middle of a training step; the iterator notices a dead worker anyway.
        signal.signal(signal.SIGCHLD, handler)
    try:
        yield from answers
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise OSError(
            "a process that reads images died, perhaps for lack of memory; start fewer with the environment variable "
            "OPENWORK_WORKERS, or give the container more memory"
        ) from error


class _Once:
    """Makes an iterator the sampler that DataLoader wants: something to iterate over."""

    def __init__(self, chunks: Iterator[Chunk]) -> None:
        self.chunks = chunks

    def __iter__(self) -> Iterator[Chunk]:
        return self.chunks
