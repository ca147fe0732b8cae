"""Writers of TensorFlow's files, for what TensorFlow would not write: hostile ones, and large ones in a moment."""

from struct import pack

import numpy as np

from openwork.formats.tensorflow.checksum import crc32c, masked

KINDS = {"float32": 1, "int32": 3, "int64": 9}


def varint(number):
    found = b""
    while number >= 0x80:
        found += bytes([number & 0x7F | 0x80])
        number >>= 7
    return found + bytes([number])


def field(number, content):
    if isinstance(content, int):
        return varint(number << 3) + varint(content % 2**64)
    return varint(number << 3 | 2) + varint(len(content)) + content


def shape(*sizes):
    return field(2, b"".join(field(2, field(1, size)) for size in sizes))


def checksum(content):
    return varint(6 << 3 | 5) + pack("<I", masked(crc32c(content)))


def block(entries, *, kind=0):
    """A block of a table, without shared prefixes."""
    content = b"".join(varint(0) + varint(len(k)) + varint(len(v)) + k + v for k, v in entries)
    content += pack("<II", 0, 1) + bytes([kind])
    return content + pack("<I", masked(crc32c(content)))


def table(entries, *, kind=0):
    """A whole table of one block."""
    entries = sorted(entries.items())
    data = block(entries, kind=kind)
    index = block([(entries[-1][0], varint(0) + varint(len(data) - 5))])
    footer = varint(0) + varint(0) + varint(len(data)) + varint(len(index) - 5)
    return data + index + footer.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")


def write_bundle(prefix, arrays):
    """Writes arrays by name as a checkpoint of one data file."""
    entries, place = {b"": field(1, 1)}, 0
    with prefix.with_name(f"{prefix.name}.data-00000-of-00001").open("wb") as file:
        for name, array in sorted(arrays.items()):
            content = np.ascontiguousarray(array).view(np.uint8).reshape(-1) if array.ndim else array.tobytes()
            file.write(content)
            where = field(4, place) + field(5, array.nbytes)
            entries[name.encode()] = field(1, KINDS[str(array.dtype)]) + shape(*array.shape) + where + checksum(content)
            place += array.nbytes
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(entries))
