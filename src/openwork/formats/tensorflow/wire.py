"""The wire format of protocol buffers, as far as TensorFlow's files need it: numbers and runs of bytes with a tag."""

from collections.abc import Iterator
from typing import TypeVar

Value = int | memoryview
"""A number, or the bytes of a string, of a message, or of a fixed 4 or 8 bytes."""

_Kind = TypeVar("_Kind", int, memoryview)
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


class DamagedError(ValueError):
    """Bytes that are not what they should be; the message is the reason, without the file."""


def varint(content: memoryview, place: int) -> tuple[int, int]:
    """An unsigned number of 7 bits a byte at ``place``, and the place behind it.

    Raises:
        DamagedError: If it does not end, or needs more than 64 bits.
    """
    found = 0
    for shift in range(0, 64, 7):
        if place >= len(content):
            raise DamagedError("a number goes on after the end")
        byte = content[place]
        place += 1
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            if found >= 1 << 64:
                break
            return found, place
    raise DamagedError("a number has more than 64 bits")


def fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """The fields of a message in its order: number and value.

    Raises:
        DamagedError: If the bytes are no message.
    """
    place = 0
    while place < len(message):
        tag, place = varint(message, place)
        kind = tag & 7
        if kind == _VARINT:
            number, place = varint(message, place)
            yield tag >> 3, number
            continue
        if kind == _BYTES:
            length, place = varint(message, place)
        elif kind in (_EIGHT, _FOUR):
            length = 8 if kind == _EIGHT else 4
        else:
            raise DamagedError(f"a field has the unknown type {kind}")
        if length > len(message) - place:
            raise DamagedError("a field goes on after the end")
        yield tag >> 3, message[place : place + length]
        place += length


def the(kind: type[_Kind], value: Value) -> _Kind:
    """The value, which must be of this kind.

    Raises:
        DamagedError: If it is of the other.
    """
    if not isinstance(value, kind):
        raise DamagedError("a field has another type than it should")
    return value


def signed(value: Value) -> int:
    """An int64, which is written as a number of 64 bits.

    Raises:
        DamagedError: If the value is no number.
    """
    number = the(int, value)
    return number - (1 << 64) if number >= 1 << 63 else number
