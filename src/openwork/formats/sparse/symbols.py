"""Bytes of which few values are frequent, such as exponents: often worth less than a bit each.

Huffman codes spend a bit at least, so several symbols share a byte, or all but the rare ones are left out.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from openwork.formats.sparse.codecs import Bytes, content, frame
from openwork.formats.sparse.positions import BITS, GAPS, Positions

_SAMPLE = 1 << 14


class Symbols(Protocol):
    """A code for bytes: two frames, of which the second holds what the first leaves out."""

    @property
    def name(self) -> str:
        """As files have it."""

    def encode(self, symbols: Bytes) -> tuple[bytes, bytes]:
        """The two frames."""

    def decode(self, first: Bytes, second: Bytes, count: int) -> Bytes:
        """The symbols, ``count`` of them. Raises DamagedError if the frames do not hold them."""


@dataclass(frozen=True)
class Plain:
    """The bytes as they are."""

    name: ClassVar[str] = "bytes"

    def encode(self, symbols: Bytes) -> tuple[bytes, bytes]:
        """A frame of the symbols, and one of nothing."""
        return frame(symbols), frame(symbols[:0])

    def decode(self, first: Bytes, second: Bytes, count: int) -> Bytes:
        """As `Symbols.decode`."""
        content(second, 0, 0)
        return content(first, count, count)


@dataclass(frozen=True)
class Ranks:
    """The symbols' ranks by frequency, in 2 or 4 bits each, the first symbol in the lowest bits of a byte.

    The first frame begins with the symbols by rank. The largest rank stands for all others, which follow in the second.

    Args:
        bits: The bits of a rank.
    """

    bits: int

    @property
    def name(self) -> str:
        """As `Symbols.name`."""
        return f"ranks{self.bits}"

    def encode(self, symbols: Bytes) -> tuple[bytes, bytes]:
        """As `Symbols.encode`."""
        other, each = 2**self.bits - 1, 8 // self.bits
        some = symbols[:: len(symbols) // _SAMPLE + 1]  # whoever is frequent is so among them
        order = np.argsort(-np.bincount(some, minlength=256), kind="stable")[:other].astype(np.uint8)
        table = np.full(256, other, np.uint8)
        table[order] = np.arange(other)
        ranks = np.zeros(-(-len(symbols) // each) * each, np.uint8)
        ranks[: len(symbols)] = _mapped(symbols, table)
        groups = ranks.view(f"<u{each}")  # a byte each, the first one lowest
        packed = groups.copy()
        for place in range(1, each):
            packed |= groups >> groups.dtype.type((8 - self.bits) * place)
        others = symbols[np.flatnonzero(ranks[: len(symbols)] == other)]
        return frame(np.concatenate([order, packed.astype(np.uint8)])), frame(others)

    def decode(self, first: Bytes, second: Bytes, count: int) -> Bytes:
        """As `Symbols.decode`."""
        other, each = 2**self.bits - 1, 8 // self.bits
        size = other + -(-count // each)
        packed = content(first, size, size)
        order, packed = np.append(packed[:other], np.uint8(0)), packed[other:]
        # The ranks in each value of a byte, and all symbols of a byte at once.
        ranks = np.arange(256)[:, None] >> np.arange(0, 8, self.bits) & other
        symbols = order[ranks].view(f"<u{each}").reshape(-1).take(packed).view(np.uint8)[:count]
        with_others = np.flatnonzero(_mapped(packed, (ranks == other).any(1).astype(np.uint8)).view(np.bool_))
        rows, places = np.nonzero(ranks[packed[with_others]] == other)
        others = with_others[rows] * each + places
        others = others[others < count]
        symbols[others] = content(second, len(others), len(others))
        return symbols


@dataclass(frozen=True)
class Exceptions:
    """The positions of all symbols but the most frequent one, and what stands there.

    The first frame is the code of the positions; the second holds the most frequent symbol, and then the others.

    Args:
        positions: The code of the positions.
    """

    positions: Positions

    @property
    def name(self) -> str:
        """As `Symbols.name`."""
        return f"exceptions.{self.positions.name}"

    def encode(self, symbols: Bytes) -> tuple[bytes, bytes]:
        """As `Symbols.encode`."""
        usual = np.bincount(symbols, minlength=256).argmax().astype(np.uint8)
        others = symbols != usual
        return self.positions.encode(others), frame(np.concatenate([[usual], np.compress(others, symbols)]))

    def decode(self, first: Bytes, second: Bytes, count: int) -> Bytes:
        """As `Symbols.decode`."""
        others = content(second, 1, count + 1)
        symbols, done = np.full(count, others[0], np.uint8), 1
        for places in self.positions.decode(first, len(others) - 1, count):
            symbols[places] = others[done : done + len(places)]
            done += len(places)
        return symbols


_KINDS: tuple[Symbols, ...] = (Plain(), Ranks(4), Ranks(2), Exceptions(BITS), Exceptions(GAPS))
SYMBOLS = {kind.name: kind for kind in _KINDS}


def smallest(symbols: Bytes) -> tuple[Symbols, bytes, bytes]:
    """The code that is the shortest for a sample from the middle, and the two frames of all symbols."""
    start = max(0, (len(symbols) - _SAMPLE) // 2)
    sample = symbols[start : start + _SAMPLE]
    kind = min(SYMBOLS.values(), key=lambda kind: sum(map(len, kind.encode(sample))))
    return kind, *kind.encode(symbols)


def _mapped(symbols: Bytes, table: Bytes) -> Bytes:
    # Three times as fast as table[symbols].
    return np.frombuffer(bytearray(symbols.tobytes()).translate(table.tobytes()), np.uint8)
