"""Where few of many are: a bit for each, or the gaps between those that are there."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from openwork.formats.sparse.codecs import Bytes, DamagedError, content, frame

Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]

PIECE = 1 << 17
"""Elements at a time: what they need stays in the processor's cache."""


class Positions(Protocol):
    """A code for the True elements of a mask."""

    @property
    def name(self) -> str:
        """As files have it."""

    def encode(self, mask: Mask) -> bytes:
        """The code of a mask."""

    def decode(self, code: Bytes, count: int, length: int) -> Iterator[Indices]:
        """The positions of the True elements in their order, in pieces.

        Args:
            code: What `encode` returned, or what a file claims that it did.
            count: How many are True.
            length: The number of elements.

        Raises:
            DamagedError: At the latest at the end, if the code does not say so.
        """


@dataclass(frozen=True)
class Bits:
    """A bit for each element, the first in the top bit of its byte."""

    name: ClassVar[str] = "bits"

    def encode(self, mask: Mask) -> bytes:
        """The zstd frame of the bits; the last byte is filled with zeros."""
        return frame(np.packbits(mask))

    def decode(self, code: Bytes, count: int, length: int) -> Iterator[Indices]:
        """As `Positions.decode`."""
        size, found = -(-length // 8), 0
        bits = content(code, size, size)
        for start in range(0, length, PIECE):
            piece = np.unpackbits(bits[start // 8 : (start + PIECE) // 8], count=min(PIECE, length - start))
            places = np.flatnonzero(piece.view(np.bool_))
            found += len(places)
            if found > count:
                break
            yield places + start
        if found != count:
            raise DamagedError(f"a mask has {found:,} positions or more instead of {count:,}")


@dataclass(frozen=True)
class Gaps:
    """A byte for each True element: how many False ones precede it. 255 stands for 255 of them, and goes on."""

    name: ClassVar[str] = "gaps"

    def encode(self, mask: Mask) -> bytes:
        """The zstd frame of the gaps; what follows the last True element needs none."""
        gaps, last = [], -1
        for start in range(0, len(mask), PIECE):
            places = np.flatnonzero(mask[start : start + PIECE]) + start
            if len(places):
                gaps.append(_with_escapes(np.diff(places, prepend=last) - 1))
                last = int(places[-1])
        return frame(np.concatenate(gaps) if gaps else np.empty(0, np.uint8))

    def decode(self, code: Bytes, count: int, length: int) -> Iterator[Indices]:
        """As `Positions.decode`."""
        gaps, found, passed = content(code, count, count + length // 255), 0, 0
        for start in range(0, len(gaps), PIECE):
            piece = gaps[start : start + PIECE]
            sums = np.cumsum(piece, dtype=np.intp)
            places = sums[piece != 255] if piece.max() == 255 else sums.copy()
            places += np.arange(passed + found, passed + found + len(places))
            passed += int(sums[-1])
            found += len(places)
            if found > count or (len(places) and places[-1] >= length):
                break
            yield places
        else:
            if found == count:
                return
        raise DamagedError(f"gaps do not lead to {count:,} positions of {length:,}")


def _with_escapes(gaps: Indices) -> Bytes:
    if gaps.max() < 255:
        return gaps.astype(np.uint8)
    ends = np.cumsum(gaps // 255 + 1) - 1
    found = np.full(ends[-1] + 1, 255, np.uint8)
    found[ends] = gaps % 255
    return found


BITS, GAPS = Bits(), Gaps()
POSITIONS: dict[str, Positions] = {kind.name: kind for kind in (BITS, GAPS)}


def smallest(mask: Mask, count: int) -> tuple[Positions, bytes]:
    """The shorter code of a mask, in which ``count`` elements are True, and its kind."""
    # With more than a quarter, the gaps' bytes cannot be worth less than the bits.
    kinds = (BITS, GAPS) if 4 * count <= len(mask) else (BITS,)
    return min(((kind, kind.encode(mask)) for kind in kinds), key=lambda found: len(found[1]))
