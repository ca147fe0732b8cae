"""The container: safetensors files, written one tensor at a time, so that no more than one need be in memory.

A file is the length of its header (8 bytes, little-endian), the header (JSON), and the tensors' bytes.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openwork.formats.files import replacing
from openwork.formats.sparse.dtypes import DTYPES


@dataclass(frozen=True)
class Entry:
    """A tensor of a file to be written.

    Args:
        name: Its name.
        dtype: Its dtype, as safetensors names it.
        shape: Its shape.
        read: Gives its bytes; called once, when they are written.
    """

    name: str
    dtype: str
    shape: Sequence[int]
    read: Callable[[], Any]

    @property
    def size(self) -> int:
        """Its bytes."""
        kind = DTYPES[self.dtype]
        return math.prod(self.shape) * kind.words * kind.word


def checked_target(path: str | Path) -> Path:
    """The path of a file to write.

    Raises:
        FileNotFoundError: If its folder is not there.
        ValueError: If it is a folder, or a device, which `write` would replace by a file.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"there is no folder {path.parent} to write {path.name} to; make it or give another path"
        )
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is a folder or a device; give the name of a file")
    return path


def write(path: Path, entries: Iterable[Entry], metadata: Mapping[str, str]) -> int:
    """Writes a safetensors file in one step: a failure leaves what was there before. Returns its bytes.

    Args:
        path: The file to replace or create.
        entries: Its tensors.
        metadata: Texts by name, which safetensors calls ``__metadata__``.
    """
    # Large words first: readers map the file, and words must lie at multiples of their size.
    ordered = sorted(entries, key=lambda entry: -DTYPES[entry.dtype].word)
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for entry in ordered:
        begin, end = end, end + entry.size
        header[entry.name] = {"dtype": entry.dtype, "shape": [*entry.shape], "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for entry in ordered:
                file.write(entry.read())
            size = file.tell()
        if size != 8 + len(text) + end:
            raise RuntimeError(f"{path} would have {size:,} bytes instead of {8 + len(text) + end:,}")
    return size
