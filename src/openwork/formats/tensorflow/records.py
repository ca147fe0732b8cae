"""TFRecord files: records one after the other, each with its length and two checksums; and the examples in them.

An example is a table of named features, each a list of byte strings, of floats or of integers.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from openwork.formats.tensorflow.checksum import crc32c, masked
from openwork.formats.tensorflow.wire import DamagedError, Value, fields, signed, the, varint

HEAD, TAIL = 12, 4
"""Bytes before and after a record: its length and that number's checksum, and the record's own checksum."""

_BYTES, _INTEGERS = 1, 3


def record_spans(path: Path) -> npt.NDArray[np.int64]:
    """Offset and length of each record, (records, 2); reads their lengths alone.

    Raises:
        DamagedError: If a length's checksum is wrong, or the file is cut off.
    """
    found: list[tuple[int, int]] = []
    with path.open("rb") as file:
        size = file.seek(0, 2)
        place = 0
        while place < size:
            file.seek(place)
            head = file.read(HEAD)
            if len(head) < HEAD:
                raise DamagedError(f"it is cut off at byte {size:,}")
            if masked(crc32c(head[:8])) != int.from_bytes(head[8:], "little"):
                raise DamagedError(f"the checksum of the length at byte {place:,} is wrong")
            length = int.from_bytes(head[:8], "little")
            if length > size - place - HEAD - TAIL:
                raise DamagedError(f"it is cut off at byte {size:,}")
            found.append((place + HEAD, length))
            place += HEAD + length + TAIL
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def checked_record(content: memoryview) -> memoryview:
    """A record without its checksum, which is compared.

    Args:
        content: The record and the four bytes behind it.

    Raises:
        DamagedError: If the checksum is wrong.
    """
    record = content[:-TAIL]
    if masked(crc32c(record)) != int.from_bytes(content[-TAIL:], "little"):
        raise DamagedError("the checksum is wrong")
    return record


def features(example: memoryview, names: Collection[str]) -> dict[str, list[bytes] | list[int]]:
    """The values of those of the named features that an example has; of floats none.

    Args:
        example: A tf.train.Example.
        names: Which features to read.

    Raises:
        DamagedError: If the bytes are no example.
    """
    found: dict[str, list[bytes] | list[int]] = {}
    for entry in _messages(_messages(iter([example]), 1), 1):
        name, feature = "", memoryview(b"")
        for number, value in fields(entry):
            if number == 1:
                name = bytes(the(memoryview, value)).decode("utf-8", "replace")
            elif number == 2:
                feature = the(memoryview, value)
        if name in names:
            found[name] = _values(feature)
    return found


def feature_names(example: memoryview) -> list[str]:
    """The names of an example's features; raises DamagedError if the bytes are no example."""
    entries = _messages(_messages(iter([example]), 1), 1)
    return sorted(bytes(the(memoryview, v)).decode("utf-8", "replace") for e in entries for n, v in fields(e) if n == 1)


def _messages(messages: Iterator[memoryview], wanted: int) -> Iterator[memoryview]:
    """The messages in a field of messages."""
    for message in messages:
        for number, value in fields(message):
            if number == wanted:
                yield the(memoryview, value)


def _values(feature: memoryview) -> list[bytes] | list[int]:
    for kind, value in fields(feature):
        inner = [value for number, value in fields(the(memoryview, value)) if number == 1]
        if kind == _BYTES:
            return [bytes(the(memoryview, one)) for one in inner]
        if kind == _INTEGERS:
            return [number for one in inner for number in _numbers(one)]
    return []


def _numbers(value: Value) -> Iterator[int]:
    """The number, or those of a packed list."""
    if isinstance(value, int):
        yield signed(value)
        return
    place = 0
    while place < len(value):
        number, place = varint(value, place)
        yield signed(number)
