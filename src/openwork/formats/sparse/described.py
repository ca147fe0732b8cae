"""What a sparse file says of itself, as JSON in the metadata that every safetensors file may have."""

import json
import zlib
from dataclasses import dataclass, field
from typing import Any

from openwork.formats.sparse.codecs import DamagedError
from openwork.formats.sparse.packed import COLUMNS, Packed

KEY = "openwork.sparse"
"""Of the metadata."""
CHECK = "openwork.sparse.crc32"
"""Of the metadata that holds the checksum of that text, in decimal digits."""
SUFFIX = ".packed"
"""Of a packed tensor's name in the file."""
VERSION = 1


@dataclass(frozen=True)
class Description:
    """Which tensors are packed, and which are one and the same.

    Args:
        packed: What a reader must know, by the tensor's name; its frames are in the file under the name with `SUFFIX`.
        tied: The names of tensors that are not in the file, and that of the tensor that each is.
    """

    packed: dict[str, Packed] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)

    def to_metadata(self) -> dict[str, str]:
        """The metadata that says so; none of a file without packed or tied tensors."""
        if not self.packed and not self.tied:
            return {}
        rows = {name: packed.row() for name, packed in self.packed.items()}
        content = {"version": VERSION, "columns": COLUMNS, "tensors": rows, "tied": self.tied}
        text = json.dumps(content, separators=(",", ":"))
        return {KEY: text, CHECK: _checksum(text)}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> "Description":
        """What `to_metadata` returned; the empty one of any other file. Raises DamagedError if it is damaged."""
        if KEY not in metadata:
            return cls()
        if metadata.get(CHECK) != _checksum(metadata[KEY]):
            raise DamagedError("its description does not have its checksum")
        try:
            content = json.loads(metadata[KEY])
        except (ValueError, RecursionError) as error:
            raise DamagedError(f"its description is no JSON: {str(error)[:80]}") from error
        if not isinstance(content, dict) or "version" not in content:
            raise DamagedError("its description has no version")
        if content["version"] != VERSION or content["version"] is True:
            version = str(content["version"])[:20]
            raise DamagedError(f"its format is {version}, not {VERSION}", "install a newer openwork")
        rows, tied = content.get("tensors"), content.get("tied")
        if content.get("columns") != COLUMNS or not isinstance(rows, dict) or not isinstance(tied, dict):
            raise DamagedError("its description lacks columns, tensors or tied")
        return cls({name: _packed(name, row) for name, row in rows.items()}, tied)

    def check(self, held: set[str]) -> set[str]:
        """The names of the file's other tensors, which are as they are.

        Args:
            held: The names in the file.

        Raises:
            DamagedError: If the file does not hold what this says.
        """
        parts = {name + SUFFIX for name in self.packed}
        plain = held - parts
        if missing := parts - held:
            raise DamagedError(f"it lacks {min(missing)[:80]!r}")
        for name, like in self.tied.items():
            if not isinstance(like, str) or not (like in plain or like in self.packed):
                raise DamagedError(f"it lacks what {name[:80]!r} is tied to")
        if twice := plain & {*self.packed} | {*self.tied} & (plain | {*self.packed}):
            raise DamagedError(f"it holds {min(twice)[:80]!r} twice")
        return plain


def _checksum(text: str) -> str:
    return str(zlib.crc32(text.encode()))


def _packed(name: str, row: Any) -> Packed:
    try:
        return Packed.from_row(row)
    except DamagedError as error:
        raise DamagedError(f"{name[:80]}: {error}") from error
