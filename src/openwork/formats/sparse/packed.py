"""A tensor as frames: where its values are, and the values with their exponents apart.

A word of a float is rotated by one bit, so that the exponent comes first and the sign last: the highest byte is then
the exponent (float32, bfloat16) or begins with it, and pays to be coded, while sign and mantissa are noise. Pruning
leaves no word below a threshold; with the smallest one subtracted, the highest byte counts from there and is nearly
always 0.
"""

import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openwork.formats.sparse import positions, symbols
from openwork.formats.sparse.codecs import Bytes, DamagedError, content, frame
from openwork.formats.sparse.dtypes import DTYPES, NAMES, Dtype

Words = npt.NDArray[Any]

_FRAMES = 5


@dataclass(frozen=True)
class Packed:
    """What a reader must know of a packed tensor. A file holds these values as a row of a table.

    Args:
        dtype: Its dtype, as safetensors names it.
        shape: Its shape.
        kept: How many of its words are in the file; the others are zeros.
        base: What was subtracted from each.
        positions: How it says where the kept words are: "bits", "gaps", or "all" of them.
        symbols: The code of the words' highest bytes.
        frames: The lengths of the five frames: positions, signs of the zeros, two of symbols, lower bytes. 0: no frame.
    """

    dtype: str
    shape: tuple[int, ...]
    kept: int
    base: int
    positions: str
    symbols: str
    frames: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Those of the tensor."""
        return math.prod(self.shape)

    @property
    def dense_bytes(self) -> int:
        """Those of the tensor in memory."""
        kind = DTYPES[self.dtype]
        return self.elements * kind.words * kind.word

    def row(self) -> list[Any]:
        """Plain values, ready for JSON, in the order of `COLUMNS`."""
        return [list(value) if isinstance(value, tuple) else value for value in astuple(self)]

    @classmethod
    def from_row(cls, row: Any) -> "Packed":
        """What `row` returned. Raises DamagedError for what it cannot have returned."""
        types = (str, list, int, int, str, str, list)
        if not isinstance(row, list) or [type(value) for value in row] != [*types]:
            raise DamagedError(f"a row of {len(types)} values is missing")
        dtype, shape, kept, base, where, kind, frames = row
        if not all(type(size) is int and size >= 0 for size in (*shape, kept, base, *frames)):
            raise DamagedError("a size is no number of at least 0")
        if dtype not in DTYPES or where not in (*positions.POSITIONS, "all") or kind not in symbols.SYMBOLS:
            raise DamagedError(f"{dtype[:20]!r}, {where[:20]!r} or {kind[:20]!r} is unknown")
        if len(frames) != _FRAMES or len(shape) > _DIMENSIONS:
            raise DamagedError(f"it has {len(frames)} frames and {len(shape)} dimensions")
        packed = cls(dtype, tuple(shape), kept, base, where, kind, tuple(frames))
        words = packed.elements * DTYPES[dtype].words
        if kept > words or (where == "all" and kept < words) or base >= 256 ** DTYPES[dtype].word:
            raise DamagedError(f"it keeps {kept:,} of {words:,} words, from {base:,} on")
        return packed


COLUMNS = [field.name for field in fields(Packed)]
_DIMENSIONS = 64  # torch's limit


def pack(tensor: Tensor) -> tuple[Packed, bytes]:
    """The frames of a tensor, one after the other, and what a reader must know of them.

    Args:
        tensor: A contiguous tensor on the CPU, of a dtype in `DTYPES`.
    """
    name = NAMES[tensor.dtype]
    kind, words = DTYPES[name], _words(tensor)
    where, frames, values = "all", [b"", b""], words
    kept = _nonzero(words, kind)
    count = int(np.count_nonzero(kept))
    if count < len(words):
        code, encoded = positions.smallest(kept, count)
        if len(encoded) < (len(words) - count) * kind.word / 2:  # otherwise the zeros are cheaper among the values
            where, frames = code.name, [encoded, _signs(words, kept)]
            values = np.compress(kept, words)
    values = _rotated(values) if kind.signed_zero else values
    base = int(values.min(initial=np.iinfo(words.dtype).max)) if len(values) else 0
    base -= base % 2 if kind.signed_zero else 0
    planes = (values - words.dtype.type(base)).view(np.uint8).reshape(-1, kind.word)
    code_of_high, *high = symbols.smallest(planes[:, -1].copy())
    low = [planes[:, place].copy() for place in range(kind.word - 2, -1, -1)]
    frames += [*high, frame(np.concatenate(low)) if low else b""]
    lengths = tuple(map(len, frames))
    return Packed(name, tuple(tensor.shape), len(values), base, where, code_of_high.name, lengths), b"".join(frames)


def unpack(packed: Packed, data: Bytes) -> Tensor:
    """The tensor, the same to the last bit.

    Args:
        packed: What `pack` returned.
        data: The frames.

    Raises:
        DamagedError: If they do not hold such a tensor; no more memory is taken than that of the tensor, three times.
    """
    kind = DTYPES[packed.dtype]
    if sum(packed.frames) != len(data):
        raise DamagedError(f"its frames have {len(data):,} bytes instead of {sum(packed.frames):,}")
    ends = list(accumulate(packed.frames))
    where, signs, *high, low = (data[end - size : end] for end, size in zip(ends, packed.frames, strict=True))
    top = symbols.SYMBOLS[packed.symbols].decode(high[0], high[1], packed.kept)
    rest = packed.kept * (kind.word - 1)
    planes = [top, *content(low, rest, rest).reshape(kind.word - 1, packed.kept)] if kind.word > 1 else [top]
    tensor = torch.zeros(packed.shape, dtype=kind.torch, device="cpu")
    words, done = _words(tensor), 0
    for places, count in _pieces(packed, where, len(words)):
        values = _joined([plane[done : done + count] for plane in planes])
        values += words.dtype.type(packed.base)
        words[places] = _rotated_back(values) if kind.signed_zero else values
        done += count
    if len(signs):
        _set_signs(words, signs, len(words) - packed.kept)
    return tensor


def _joined(planes: list[Bytes]) -> Words:
    """New words whose bytes are these, the highest first."""
    joined: list[Words] = [planes[0].copy()] if len(planes) == 1 else [*planes]
    while len(joined) > 1:  # neighbours, as words of twice the size: faster than byte by byte
        bits = 8 * joined[0].itemsize
        wide = f"u{bits // 4}"
        joined = [(a.astype(wide) << bits) | b for a, b in zip(joined[::2], joined[1::2], strict=True)]
    return joined[0]


def _pieces(packed: Packed, code: Bytes, length: int) -> Iterator[tuple[Any, int]]:
    """Which words are in the file, as indices or a slice, and how many these are."""
    if packed.positions == "all":
        size = positions.PIECE
        return ((slice(start, start + size), min(size, length - start)) for start in range(0, length, size))
    found = positions.POSITIONS[packed.positions].decode(code, packed.kept, length)
    return ((places, len(places)) for places in found)


def _words(tensor: Tensor) -> Words:
    """The memory of a contiguous tensor as unsigned words."""
    kind: Dtype = DTYPES[NAMES[tensor.dtype]]
    return tensor.reshape(-1).view(torch.uint8).numpy().view(f"u{kind.word}")


def _nonzero(words: Words, kind: Dtype) -> positions.Mask:
    """Which words are no zeros; of floats, -0.0 is one too."""
    found = np.empty(len(words), np.bool_)
    for start in range(0, len(words), positions.PIECE):
        piece = slice(start, start + positions.PIECE)
        # Without its sign, where that is all that a zero may have.
        np.not_equal(words[piece] << words.dtype.type(kind.signed_zero), 0, out=found[piece])
    return found


def _signs(words: Words, kept: positions.Mask) -> bytes:
    """A bit for each zero: whether it is -0.0. Nothing if none is."""
    if np.count_nonzero(words) == np.count_nonzero(kept):
        return b""
    return frame(np.packbits(np.compress(~kept, words) != 0))


def _set_signs(words: Words, signs: Bytes, count: int) -> None:
    size = -(-count // 8)
    negative = np.unpackbits(content(signs, size, size), count=count)
    zeros = np.flatnonzero(words == 0)
    if len(zeros) != count:
        raise DamagedError(f"it has {len(zeros):,} zeros instead of {count:,}")
    words[zeros] = negative.astype(words.dtype) << words.dtype.type(8 * words.itemsize - 1)


def _rotated(words: Words) -> Words:
    one, top = words.dtype.type(1), words.dtype.type(8 * words.itemsize - 1)
    rotated: Words = (words << one) | (words >> top)
    return rotated


def _rotated_back(words: Words) -> Words:
    one, top = words.dtype.type(1), words.dtype.type(8 * words.itemsize - 1)
    rotated: Words = (words >> one) | (words << top)
    return rotated
