"""TensorFlow checkpoints of version 2: ``PREFIX.index`` says where each tensor lies in which ``PREFIX.data-*`` file.

A partitioned variable is an entry that only lists its slices; each slice is an entry of its own, whose key is made of
the name and the place of the slice.
"""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openwork.formats.tensorflow.checksum import crc32c, masked
from openwork.formats.tensorflow.entries import WHOLE, Entry, Extent, read_entries, slice_key
from openwork.formats.tensorflow.place import nothing_at, prefix_of
from openwork.formats.tensorflow.table import read_table
from openwork.formats.tensorflow.wire import DamagedError

# Numbers of TensorFlow's DataType; what is left out are strings, resources, variants and codes of quantised types.
_TYPES = {
    1: torch.float32,
    2: torch.float64,
    3: torch.int32,
    4: torch.uint8,
    5: torch.int16,
    6: torch.int8,
    8: torch.complex64,
    9: torch.int64,
    10: torch.bool,
    14: torch.bfloat16,
    17: torch.uint16,
    18: torch.complex128,
    19: torch.float16,
    22: torch.uint32,
    23: torch.uint64,
    24: torch.float8_e5m2,
    25: torch.float8_e4m3fn,
}
_OTHERS = {7: "strings", 20: "a resource", 21: "a variant"}
_MOST_AXES, _MOST_ROOM = 32, 1 << 60
_CURE = "copy the whole checkpoint again from its source"


class Bundle:
    """The tensors of a checkpoint, each read, and its checksum compared, when it is asked for.

    Args:
        prefix: ``PREFIX``, ``PREFIX.index``, one of its data files, or a folder with a single checkpoint.

    Raises:
        FileNotFoundError: If there is no such checkpoint, or one of its data files is missing.
        ValueError: If the index is damaged or not one of version 2, or places a tensor outside of its data file.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = prefix_of(Path(prefix))
        index = Path(f"{self.prefix}.index")
        if not index.is_file():
            raise FileNotFoundError(nothing_at(self.prefix))
        try:
            entries, shards = read_entries(read_table(index))
        except DamagedError as error:
            raise ValueError(f"{index} is no readable index of a TensorFlow checkpoint: {error}; {_CURE}") from error
        self._files = [Path(f"{self.prefix}.data-{number:05}-of-{shards:05}") for number in range(shards)]
        self._check_files()
        self._entries = {key: entry for key, entry in entries.items() if not key.startswith(b"\0")}
        self._slices = {key: entry for key, entry in entries.items() if key.startswith(b"\0")}
        self._names = {_name(key): key for key in self._entries}
        self._maps: dict[int, npt.NDArray[np.uint8]] = {}
        self._checked: set[Entry] = set()
        for key, entry in entries.items():
            self._check(_name(key), entry)

    @property
    def names(self) -> list[str]:
        """The names of all tensors, sorted."""
        return list(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._entries[self._names[name]].shape

    def unreadable(self, name: str) -> str:
        """What a tensor holds instead of numbers; "" if it holds numbers."""
        kind = self._entries[self._names[name]].kind
        return "" if kind in _TYPES else _OTHERS.get(kind, f"values of TensorFlow's type {kind}")

    def tensor(self, name: str) -> Tensor:
        """A tensor; its bytes stay in the file, and changing it does not change the file.

        Raises:
            ValueError: If it is damaged, or holds no numbers.
        """
        key = self._names[name]
        entry = self._entries[key]
        if self.unreadable(name):
            raise ValueError(f"{name!r} of {self.prefix} holds {self.unreadable(name)}, which are no numbers; leave it "
                             "out")  # fmt: skip
        if not entry.slices:
            return self._read(name, entry)
        whole = torch.empty(entry.shape, dtype=_TYPES[entry.kind], device="cpu")
        filled = torch.zeros(entry.shape, dtype=torch.bool, device="cpu")
        for extent, part in self._parts(name, entry):
            place = tuple(slice(start, start + length) for start, length in extent)
            whole[place] = self._read(name, part)
            filled[place] = True
        if not filled.all():
            raise ValueError(self._gap(name))
        return whole

    def _read(self, name: str, entry: Entry) -> Tensor:
        if not entry.size:
            return torch.empty(entry.shape, dtype=_TYPES[entry.kind], device="cpu")
        if entry.shard not in self._maps:
            self._maps[entry.shard] = np.memmap(self._files[entry.shard], np.uint8, mode="c")
        content = self._maps[entry.shard][entry.offset : entry.offset + entry.size]
        if entry not in self._checked and masked(crc32c(content)) != entry.checksum:
            raise ValueError(
                f"the checksum of {name!r} in {self._files[entry.shard]} is wrong, so its values are damaged; {_CURE}"
            )
        self._checked.add(entry)
        kind = _TYPES[entry.kind]
        if entry.offset % kind.itemsize:
            content = content.copy()  # TensorFlow puts one tensor right behind the other, whatever their types
        return torch.from_numpy(np.asarray(content)).view(kind).view(entry.shape)

    def _parts(self, name: str, entry: Entry) -> list[tuple[Extent, Entry]]:
        """Place and entry of each slice."""
        found = []
        for extent in entry.slices:
            whole = tuple((0, n) if length == WHOLE else (start, length)
                          for (start, length), n in zip(extent, entry.shape, strict=True))  # fmt: skip
            part = self._slices.get(slice_key(name, extent))
            if part is None:
                raise ValueError(f"{self.prefix} lacks a slice of the partitioned variable {name!r}; {_CURE}")
            if part.kind != entry.kind or part.shape != tuple(length for _, length in whole):
                raise ValueError(f"a slice of {name!r} in {self.prefix} has another shape or type than its place; "
                                 f"{_CURE}")  # fmt: skip
            found.append((whole, part))
        return found

    def _check_files(self) -> None:
        for path in self._files:
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path} is missing, one of the {len(self._files)} data files of the checkpoint; {_CURE}"
                )
        self._sizes = [path.stat().st_size for path in self._files]

    def _check(self, name: str, entry: Entry) -> None:
        """Raises ValueError if an entry cannot be right."""
        if len(entry.shape) > _MOST_AXES or min(entry.shape, default=0) < 0 or _room(entry.shape) > _MOST_ROOM:
            raise ValueError(f"{self.prefix} has the shape {list(entry.shape)[:4]} for {name!r}; {_CURE}")
        if entry.slices:
            if name not in self._names or any(len(extent) != len(entry.shape) for extent in entry.slices):
                raise ValueError(f"a slice of {name!r} in {self.prefix} has other axes than the variable; {_CURE}")
            if entry.kind in _TYPES:
                self._check_slices(name, entry)
            return
        if not 0 <= entry.shard < len(self._files) or entry.offset + entry.size > self._sizes[entry.shard]:
            raise ValueError(
                f"{self.prefix} places {name!r} outside of its {len(self._files)} data files, so one of them is cut "
                f"off; {_CURE}"
            )
        if entry.kind in _TYPES and math.prod(entry.shape) * _TYPES[entry.kind].itemsize != entry.size:
            raise ValueError(f"{self.prefix} has {entry.size:,} bytes for {name!r} of shape {list(entry.shape)}; "
                             f"{_CURE}")  # fmt: skip

    def _check_slices(self, name: str, entry: Entry) -> None:
        """Raises ValueError unless the slices may fill the variable; only reading it tells whether they overlap."""
        extents = [extent for extent, _ in self._parts(name, entry)]
        inside = all(start >= 0 and length >= 0 and start + length <= n
                     for extent in extents for (start, length), n in zip(extent, entry.shape, strict=True))  # fmt: skip
        volume = sum(math.prod(length for _, length in extent) for extent in extents)
        # Two slices may claim the same bytes, and their sum more memory than the files have.
        size = volume * _TYPES[entry.kind].itemsize
        if not inside or volume != math.prod(entry.shape) or size > sum(self._sizes):
            raise ValueError(self._gap(name))

    def _gap(self, name: str) -> str:
        return f"the slices of {name!r} in {self.prefix} do not fill its shape {list(self.shape(name))}; {_CURE}"


def _room(shape: tuple[int, ...]) -> int:
    """The number of values, as if no axis were empty: torch computes strides of empty tensors, too."""
    return math.prod(max(n, 1) for n in shape)


def _name(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace")
