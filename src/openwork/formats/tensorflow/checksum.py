"""CRC-32C (Castagnoli), which TensorFlow and leveldb keep with all that they write; in NumPy, on many lanes at once.

A CRC is linear over GF(2): the register after A and then B is that after A, moved on by as many zero bytes as B has,
xor that after B from an empty register. So a long text is cut into lanes, whose registers advance together four bytes
at a time, and which are then joined in pairs.
"""

from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

_POLYNOMIAL = 0x82F63B78  # 0x1EDC6F41 with its bits reversed
_ALL = 0xFFFFFFFF
_LANES = 8192  # their registers, and the cache lines from which they read, fit into a second-level cache
_WORDS = 8  # of a lane at least: below that, joining the lanes costs more than they bring

Words = npt.NDArray[np.uint32]


def crc32c(content: "npt.NDArray[np.uint8] | bytes | memoryview") -> int:
    """The CRC-32C of bytes."""
    data = np.frombuffer(content, np.uint8) if not isinstance(content, np.ndarray) else content
    return _register(data, _ALL) ^ _ALL


def masked(crc: int) -> int:
    """A CRC as leveldb, and so TensorFlow, stores it: rotated and shifted, as it often is part of what is checked."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & _ALL


def _register(data: npt.NDArray[np.uint8], start: int) -> int:
    """The register after the bytes."""
    lanes = _LANES
    while lanes > 1 and len(data) < lanes * 4 * _WORDS:
        lanes //= 2
    if lanes < 8:
        return _one_by_one(data.tobytes(), start)
    words = len(data) // (4 * lanes)
    head = 4 * lanes * words
    found = np.zeros(lanes, np.uint32)
    found[0] = start
    low, high = _tables()
    columns = data[:head].reshape(lanes, 4 * words)
    for word in range(words):
        found ^= np.ascontiguousarray(columns[:, 4 * word : 4 * word + 4]).view("<u4")[:, 0]
        halves = found.view(np.uint16)  # on a little-endian machine, as all that torch runs on
        found = np.take(low, halves[0::2]) ^ np.take(high, halves[1::2])
    length = 4 * words
    while len(found) > 1:
        found = _moved(found[0::2], length) ^ found[1::2]
        length *= 2
    return _register(data[head:], int(found[0])) if head < len(data) else int(found[0])


def _one_by_one(data: bytes, register: int) -> int:
    table = _bytewise()
    for byte in data:
        register = table[(register ^ byte) & 0xFF] ^ register >> 8
    return register


@cache
def _bytewise() -> list[int]:
    """The register after one byte."""
    table = []
    for register in range(256):
        for _ in range(8):
            register = register >> 1 ^ (_POLYNOMIAL if register & 1 else 0)
        table.append(register)
    return table


@cache
def _tables() -> tuple[Words, Words]:
    """The register four zero bytes after its lower, and after its upper 16 bits."""
    ends = np.array([_one_by_one(bytes(4), 1 << bit) for bit in range(32)], np.uint32)
    low, high = (_combinations(ends[first : first + 16]) for first in (0, 16))
    return low, high


def _combinations(columns: Words) -> Words:
    """For each number below 2 ** len(columns) the xor of the columns whose bits it has."""
    table = np.zeros(1, np.uint32)
    for column in columns:
        table = np.concatenate([table, table ^ column])
    return table


def _moved(registers: Words, length: int) -> Words:
    """Registers after ``length`` more zero bytes."""
    tables = _steps(length)
    parts = registers.copy().view(np.uint8).reshape(-1, 4)
    return tables[0][parts[:, 0]] ^ tables[1][parts[:, 1]] ^ tables[2][parts[:, 2]] ^ tables[3][parts[:, 3]]


@lru_cache(maxsize=256)  # 4 kB each
def _steps(length: int) -> tuple[Words, ...]:
    """For each byte of a register what becomes of it after ``length`` zero bytes."""
    columns = np.array([1 << bit for bit in range(32)], np.uint32)  # of the matrix that moves by no byte
    power = np.array([_one_by_one(b"\0", 1 << bit) for bit in range(32)], np.uint32)
    while length:
        if length & 1:
            columns = _product(power, columns)
        power = _product(power, power)
        length >>= 1
    return tuple(_combinations(columns[first : first + 8]) for first in (0, 8, 16, 24))


def _product(matrix: Words, columns: Words) -> Words:
    """The matrix applied to each column."""
    found = np.zeros_like(columns)
    for bit in range(32):
        found ^= np.where(columns >> bit & 1, matrix[bit], 0).astype(np.uint32)
    return found
