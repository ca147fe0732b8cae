"""Sentence pairs packed into rows of one length, on disk: what a Transformer trains on.

Several pairs share a row, as in tensor2tensor's packed problems (Gale et al. 2019 trained on rows of 256). Rows are
packed once, in the order of the text, and shuffled in every epoch. They stay in two memory-mapped files, so the memory
needed does not grow with the corpus, except for eight bytes a row while an epoch's order is drawn.
"""

import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openwork.study.data.vocabulary import EOS, Vocabulary
from openwork.words import count

_OPEN = 10  # rows that are filled at the same time
_CHUNK = 10_000  # pairs that are encoded at once
Ids = Sequence[int]
_Row = tuple[list[int], list[int], list[int], list[int]]  # source ids and segments, target ids and segments


@dataclass
class Counts:
    """How many pairs of a corpus were read, and how many were left out and why."""

    pairs: int = 0
    empty: int = 0
    """Pairs left out because a side is empty."""
    too_long: int = 0
    """Pairs left out because a side has more ids than a row."""
    held_out: int = 0
    """Pairs left out because a side is a sentence of the development or test set."""
    unknown: int = 0
    """Ids that stand for something the vocabulary cannot spell."""

    def __str__(self) -> str:
        """A sentence."""
        return (
            f"{count(self.pairs, 'pair')}; left out: {self.empty} with an empty side, {self.too_long} too long, "
            f"{count(self.held_out, 'that is', 'that are')} held out; {count(self.unknown, 'unknown piece')}"
        )


@dataclass(frozen=True, eq=False)
class Packed:
    """R rows of packed sentence pairs.

    Args:
        ids: (R, 2, L): of side 0, the source, and of side 1, the target.
        segments: (R, 2, L): numbers of the pairs in a row, from 1; 0 is padding.
        counts: What became of the pairs.
    """

    ids: npt.NDArray[Any]
    segments: npt.NDArray[np.uint16]
    counts: Counts


def encoded(
    pairs: Iterable[tuple[str, str]],
    vocabulary: Vocabulary,
    counts: Counts,
    *,
    longest: int,
    held_out: frozenset[str] = frozenset(),
    workers: int = 1,
) -> Iterator[tuple[Ids, Ids]]:
    """The ids of both sides of each pair, each with the end, in order.

    Args:
        pairs: Sentences and their translations.
        vocabulary: Encodes both sides.
        counts: Counts what was read and left out, as the pairs are read.
        longest: The most ids of a side, with the end.
        held_out: Sentences whose pairs are left out.
        workers: Threads that encode.
    """
    chunk: list[tuple[str, str]] = []
    for pair in pairs:
        counts.pairs += 1
        if not all(pair):
            counts.empty += 1
        elif not held_out.isdisjoint(pair):
            counts.held_out += 1
        else:
            chunk.append(pair)
        if len(chunk) == _CHUNK:
            yield from _encoded(chunk, vocabulary, counts, longest, workers)
            chunk = []
    yield from _encoded(chunk, vocabulary, counts, longest, workers)


def _encoded(
    chunk: list[tuple[str, str]], vocabulary: Vocabulary, counts: Counts, longest: int, workers: int
) -> Iterator[tuple[Ids, Ids]]:
    sides = [vocabulary.encode([pair[side] for pair in chunk], workers) for side in range(2)]
    for source, target in zip(*sides, strict=True):
        if vocabulary.unknown is not None:
            counts.unknown += source.count(vocabulary.unknown) + target.count(vocabulary.unknown)
        if max(len(source), len(target)) >= longest:
            counts.too_long += 1
        else:
            yield [*source, EOS], [*target, EOS]


def packed_rows(pairs: Iterable[tuple[Ids, Ids]], length: int) -> Iterator[npt.NDArray[np.int64]]:
    """Rows (2, 2, length): source and target, of each the ids and the segments.

    A pair goes into the first of ten open rows that has room for both sides; where none has, the oldest is closed and a
    new one opened.
    """
    rows: list[_Row] = []
    for source, target in pairs:
        row = next((r for r in rows if len(r[0]) + len(source) <= length and len(r[2]) + len(target) <= length), None)
        if row is None:
            if len(rows) == _OPEN:
                yield _filled(rows.pop(0), length)
            rows.append(row := ([], [], [], []))
        number = row[1][-1] + 1 if row[1] else 1
        for values, more in zip(row, (source, [number] * len(source), target, [number] * len(target)), strict=True):
            values.extend(more)
    for row in rows:
        yield _filled(row, length)


def _filled(row: _Row, length: int) -> npt.NDArray[np.int64]:
    filled = np.zeros((4, length), np.int64)
    for number, values in enumerate(row):
        filled[number, : len(values)] = values
    return filled.reshape(2, 2, length)


def pack(pairs: Iterable[tuple[Ids, Ids]], counts: Counts, length: int, vocabulary_size: int, folder: Path) -> Packed:
    """The packed pairs, from ``folder`` where they are there as they were written, else after writing them there.

    Args:
        pairs: Ids of both sides, as `encoded` gives them; not read where the folder has them.
        counts: What became of the pairs; written beside the rows.
        length: Ids of a row.
        vocabulary_size: Up to 65,536, an id takes two bytes; above, four.
        folder: Where the rows lie.

    Raises:
        ValueError: If there is no pair.
    """
    if not _is_whole(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        made = temporary / "made"
        made.mkdir()
        try:
            with (made / "ids").open("wb") as ids, (made / "segments").open("wb") as segments:
                for row in packed_rows(pairs, length):
                    ids.write(row[:, 0].astype(_dtype(vocabulary_size)).tobytes())
                    segments.write(row[:, 1].astype(np.uint16).tobytes())
            (made / "counts.json").write_text(json.dumps(asdict(counts)))
            (made / "checksum").write_text(_checksum(made))
            made.chmod(0o755)
            if not _is_whole(folder):
                with suppress(FileNotFoundError):  # none was there, or another process has moved it
                    folder.rename(temporary / "damaged")
            try:
                made.rename(folder)
            except OSError:
                if not _is_whole(folder):  # otherwise another process was faster
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return read_packed(folder, length, vocabulary_size)


def _is_whole(folder: Path) -> bool:
    """Whether the folder holds what `pack` wrote: a disk may lose the end of a file, or change it."""
    try:
        return (folder / "checksum").read_bytes() == _checksum(folder).encode()
    except OSError:
        return False


def _checksum(folder: Path) -> str:
    """A CRC-32, in less time than it takes to read the text for the name of the folder."""
    found = 0
    for name in ("ids", "segments", "counts.json"):
        with (folder / name).open("rb") as file:
            while part := file.read(2**20):
                found = zlib.crc32(part, found)
    return f"{found:08x}"


def read_packed(folder: Path, length: int, vocabulary_size: int) -> Packed:
    """What `pack` wrote to ``folder``, mapped into memory.

    Args:
        folder: Where the rows lie.
        length: As `pack` was given it.
        vocabulary_size: As `pack` was given it.

    Raises:
        ValueError: If it holds no pair.
    """
    counts = Counts(**json.loads((folder / "counts.json").read_text()))
    if os.path.getsize(folder / "ids") == 0:
        raise ValueError(f"there is no sentence pair to train on ({counts}); is it the right text?")
    ids = np.memmap(folder / "ids", dtype=_dtype(vocabulary_size), mode="r").reshape(-1, 2, length)
    segments = np.memmap(folder / "segments", dtype=np.uint16, mode="r").reshape(-1, 2, length)
    return Packed(ids, segments, counts)


def _dtype(vocabulary_size: int) -> type[np.unsignedinteger[Any]]:
    return np.uint16 if vocabulary_size <= 2**16 else np.uint32


def packed_batches(
    packed: Packed, batch_size: int, *, seed: int, start: int, device: torch.device, rank: int = 0, ranks: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (source, target), each (3, N, L): ids, segments and positions; a new order of the rows in every epoch.

    The order depends on (seed, epoch) alone. The rest of an epoch, less than a batch, is dropped.

    Args:
        packed: The rows.
        batch_size: Rows of a batch, over all processes.
        seed: Together with the epoch, determines the order.
        start: Number of the first batch in the endless sequence, found without reading those before it.
        device: Where the batches go.
        rank: Number of this process.
        ranks: How many processes share each batch; each gets every ``ranks``-th row.

    Raises:
        ValueError: Unless batch_size is a multiple of ranks and at most the number of rows.
    """
    size = len(packed.ids)
    if not 1 <= batch_size <= size or batch_size % ranks:
        raise ValueError(
            f"a batch has {batch_size} rows for {ranks} processes, and there are {size}; take a multiple of the "
            "processes and no more than there are"
        )
    return _batches(packed, batch_size, seed, start, device, rank, ranks)


def _batches(
    packed: Packed, batch_size: int, seed: int, start: int, device: torch.device, rank: int, ranks: int
) -> Iterator[tuple[Tensor, Tensor]]:
    per_epoch = len(packed.ids) // batch_size
    epoch, first = divmod(start, per_epoch)
    while True:
        generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))
        order = generator.permutation(len(packed.ids))
        for batch in range(first, per_epoch):
            chosen = order[batch * batch_size : (batch + 1) * batch_size][rank::ranks]
            yield batch_of(packed.ids[chosen], packed.segments[chosen], device)
        epoch, first = epoch + 1, 0


def batch_of(ids: npt.NDArray[Any], segments: npt.NDArray[Any], device: torch.device) -> tuple[Tensor, Tensor]:
    """(source, target), each (3, N, L) int64: ids, segments and positions, from (N, 2, L) ids and segments."""
    whole = np.stack([ids.astype(np.int32), segments.astype(np.int32), _positions(segments)])
    batch = torch.from_numpy(whole)
    if device.type == "cuda":
        batch = batch.pin_memory().to(device, non_blocking=True)  # the host does not wait for the device
    source, target = batch.long().unbind(2)
    return source, target


def _positions(segments: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Places within the segment, 0 for padding."""
    places = np.broadcast_to(np.arange(segments.shape[-1], dtype=np.int32), segments.shape)
    begins = np.zeros(segments.shape, bool)
    begins[..., 1:] = segments[..., 1:] != segments[..., :-1]
    positions = places - np.maximum.accumulate(np.where(begins, places, 0), axis=-1)
    return np.where(segments > 0, positions, 0).astype(np.int32)


def by_length(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Batches of indices of similar lengths, the longest first.

    Args:
        lengths: Of each sentence.
        tokens: The most tokens of a batch with its padding; a longer sentence is a batch alone.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
