"""zstd frames: the one entropy coder of sparse files, whose Huffman codes suit all that the other modules make."""

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

_threads = threading.local()


class DamagedError(ValueError):
    """What a file holds is not what it says that it holds.

    Args:
        reason: Why, without the file's name.
        cure: What to do about it.
    """

    def __init__(self, reason: str, cure: str = "copy it again from its source") -> None:
        super().__init__(reason)
        self.cure = cure


def frame(content: Bytes) -> bytes:
    """The zstd frame of some bytes, with their number and a checksum.

    Level 1, as its Huffman codes are what saves here: to look longer for repetitions, which random masks and
    exponents have not, finds chance ones that cost more than they save.
    """
    packed: bytes = _compressor().compress(content)
    return packed


def content(data: Bytes, least: int, most: int) -> Bytes:
    """The bytes in a frame.

    Args:
        data: The frame.
        least: The smallest number of bytes that it may hold.
        most: The largest; no more memory is taken, whatever the frame claims.

    Raises:
        DamagedError: If it holds another number, or is damaged.
    """
    zstandard = _zstandard()
    try:
        size = zstandard.frame_content_size(data)
        if not least <= size <= most:
            raise DamagedError(f"a part has {size:,} bytes instead of {least:,} to {most:,}")
        found = _decompressor().decompress(data, max_output_size=size)
    except zstandard.ZstdError as error:
        raise DamagedError(f"a part is no zstd frame: {error}") from error
    if len(found) != size:
        raise DamagedError(f"a part has {len(found):,} bytes instead of {size:,}")
    return np.frombuffer(found, np.uint8)


def _compressor() -> Any:
    """That of the thread, as making one takes as long as packing a small tensor."""
    if not hasattr(_threads, "compressor"):
        _threads.compressor = _zstandard().ZstdCompressor(level=1, write_checksum=True, write_content_size=True)
    return _threads.compressor


def _decompressor() -> Any:
    if not hasattr(_threads, "decompressor"):
        _threads.decompressor = _zstandard().ZstdDecompressor()
    return _threads.decompressor


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise ImportError('packed tensors need zstandard: pip install "openwork[files]"') from error
    return zstandard
