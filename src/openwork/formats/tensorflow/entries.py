"""What the index of a TensorFlow checkpoint says: a header, and an entry for each tensor and for each slice of one."""

from collections.abc import Mapping
from dataclasses import dataclass

from openwork.formats.tensorflow.wire import DamagedError, fields, signed, the

WHOLE = -1
"""The length of a slice that takes a whole axis."""

Extent = tuple[tuple[int, int], ...]
"""Start and length of a slice on each axis."""


@dataclass(frozen=True)
class Entry:
    """What the index says of a tensor, or of a slice of one.

    Args:
        kind: TensorFlow's number of its data type.
        shape: Its shape.
        shard: The number of the data file.
        offset: Its first byte there.
        size: How many bytes it has.
        checksum: Of these bytes, masked.
        slices: Where the slices of a partitioned variable lie; empty for any other tensor.
    """

    kind: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int
    slices: tuple[Extent, ...]


def slice_key(name: str, extent: Extent) -> bytes:
    """The key of a slice in the index, in an order-preserving code.

    Args:
        name: Of the variable.
        extent: Where the slice lies.
    """
    text = name.encode().replace(b"\xff", b"\xff\0").replace(b"\0", b"\0\xff")
    numbers = [number for pair in extent for number in pair]
    return b"\0" + text + b"\0\1" + _unsigned(len(extent)) + b"".join(map(_signed, numbers))


def _unsigned(number: int) -> bytes:
    digits = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return bytes([len(digits)]) + digits


def _signed(number: int) -> bytes:
    """The sign and as many ones as there are more bytes, then the number in two's complement."""
    size = 1
    while not -(1 << 7 * size - 1) <= number < 1 << 7 * size - 1:
        size += 1
    head = ((1 << size) - 1) << 8 * size - size
    return ((number & (1 << 8 * size) - 1) ^ head).to_bytes(size, "big")


def read_entries(table: Mapping[bytes, memoryview]) -> tuple[dict[bytes, Entry], int]:
    """The entries by key, and the number of data files.

    Args:
        table: The keys and values of the index.

    Raises:
        DamagedError: If they are no index of a checkpoint of version 2 that this machine can read.
    """
    if b"" not in table:
        raise DamagedError("it has no header, as in a checkpoint of version 1; save it again with a tf.train.Saver of "
                           "version 2")  # fmt: skip
    shards, big = 0, False
    for number, value in fields(table[b""]):
        if number == 1:
            shards = the(int, value)
        elif number == 2:
            big = bool(value)
    if big:
        raise DamagedError("it was written on a big-endian machine")
    if not 1 <= shards < 100_000:
        raise DamagedError(f"it names {shards:,} data files")
    return {key: _entry(value) for key, value in table.items() if key}, shards


def _entry(message: memoryview) -> Entry:
    numbers = dict.fromkeys((1, 3, 4, 5), 0)
    shape: tuple[int, ...] = ()
    checksum, slices = 0, []
    for number, value in fields(message):
        if number in numbers:
            numbers[number] = the(int, value)
        elif number == 2:
            shape = _shape(the(memoryview, value))
        elif number == 6:
            checksum = int.from_bytes(the(memoryview, value), "little")
        elif number == 7:
            slices.append(_extent(the(memoryview, value)))
    return Entry(numbers[1], shape, numbers[3], numbers[4], numbers[5], checksum, tuple(slices))


def _shape(message: memoryview) -> tuple[int, ...]:
    sizes = []
    for number, value in fields(message):
        if number == 2:
            size = [signed(inner) for field, inner in fields(the(memoryview, value)) if field == 1]
            sizes.append(size[-1] if size else 0)
    return tuple(sizes)


def _extent(message: memoryview) -> Extent:
    found = []
    for number, value in fields(message):
        if number == 1:
            start, length = 0, WHOLE
            for field, inner in fields(the(memoryview, value)):
                start = signed(inner) if field == 1 else start
                length = signed(inner) if field == 2 else length
            found.append((start, length))
    return tuple(found)
