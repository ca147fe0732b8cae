"""A leveldb table, the file of keys and values in which TensorFlow keeps what a checkpoint holds.

A footer points to an index block, whose values point to the blocks of entries. Each key says how many bytes it shares
with the one before it.
"""

from collections.abc import Iterator
from pathlib import Path

from openwork.formats.tensorflow.checksum import crc32c, masked
from openwork.formats.tensorflow.wire import DamagedError, varint

_FOOTER = 48  # bytes: two handles, zeros, and the magic number
_MAGIC = bytes.fromhex("57fb808b247547db")
_TRAILER = 5  # bytes after a block: how it is compressed, and its checksum
_COMPRESSION = {0: "", 1: "snappy", 2: "zlib", 4: "zstd"}
_MOST = 1 << 28  # bytes of the file, and of all keys: many times what the largest list of tensors takes


def is_table(path: Path) -> bool:
    """Whether the file ends as a table does."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - len(_MAGIC), 0))
        return file.read() == _MAGIC


def read_table(path: Path) -> dict[bytes, memoryview]:
    """All keys and values, in the order of the keys.

    Raises:
        DamagedError: If the file is no table, or a damaged, compressed or too large one.
    """
    size = path.stat().st_size
    if size > _MOST:
        raise DamagedError(f"it has {size:,} bytes, and no list of tensors has more than {_MOST:,}")
    content = memoryview(path.read_bytes())
    if len(content) < _FOOTER or content[-len(_MAGIC) :] != _MAGIC:
        raise DamagedError("it does not end as such a file does, so it is cut off or of another kind")
    footer = content[-_FOOTER : -len(_MAGIC)]
    _, place = _handle(footer, 0)
    index, _ = _handle(footer, place)
    found: dict[bytes, memoryview] = {}
    last, total = None, 0
    for _, pointer in _entries(_block(content, index)):
        for key, value in _entries(_block(content, _handle(pointer, 0)[0])):
            total += len(key)
            if total > _MOST:
                raise DamagedError(f"its keys have more than {_MOST:,} bytes")
            # So no block comes twice either.
            if last is not None and key <= last:
                raise DamagedError("its keys are not in order")
            found[key] = value
            last = key
    return found


def _handle(content: memoryview, place: int) -> tuple[tuple[int, int], int]:
    """Offset and size of a block, and the place behind them."""
    offset, place = varint(content, place)
    size, place = varint(content, place)
    return (offset, size), place


def _block(content: memoryview, handle: tuple[int, int]) -> memoryview:
    """The content of a block, checked."""
    offset, size = handle
    end = offset + size + _TRAILER
    if end > len(content) - _FOOTER:
        raise DamagedError("it points to a place after its end")
    kind = content[end - _TRAILER]
    if masked(crc32c(content[offset : end - 4])) != int.from_bytes(content[end - 4 : end], "little"):
        raise DamagedError(f"the checksum of its block at byte {offset:,} is wrong")
    if kind:
        name = _COMPRESSION.get(kind, f"kind {kind}")
        raise DamagedError(f"its blocks are compressed ({name}), as checkpoints of tf.train.Saver never are")
    return content[offset : end - _TRAILER]


def _entries(block: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Keys and values of a block."""
    restarts = int.from_bytes(block[-4:], "little") if len(block) >= 4 else -1
    end = len(block) - 4 - 4 * restarts
    if restarts < 0 or end < 0:
        raise DamagedError("a block is shorter than it says")
    key, place = b"", 0
    while place < end:
        shared, place = varint(block, place)
        own, place = varint(block, place)
        length, place = varint(block, place)
        if shared > len(key) or own + length > end - place:
            raise DamagedError("an entry goes on after the end of its block")
        key = key[:shared] + bytes(block[place : place + own])
        yield key, block[place + own : place + own + length]
        place += own + length
