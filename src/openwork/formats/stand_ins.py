"""Reading the tensors of a torch file whose pickle has classes that are unknown here.

Nothing is imported, and nothing of the file runs: each class and function that it names becomes a stand-in, which only
keeps what it is given, but for a few that rebuild tensors from numbers that are checked (`rebuild.py`). It is Python's
unpickler in Python, not that in C, so that no opcode takes memory that the file does not fill. What a stand-in keeps it
keeps by reference: a pickle can name one large dictionary a million times.
"""

import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import torch

from openwork.formats.rebuild import REBUILD, Storage, storage_type

_PYTHONS: Any = pickle._Unpickler
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # protocol 2, torch.save's, has the names of Python 2
_HEADER = 30  # bytes of a zip entry's own header before its name


class StandIn(dict[Any, Any]):
    """An object of an unknown class.

    Args:
        of: The name of the class, or of the function that would have made it.
    """

    def __init__(self, of: str) -> None:
        super().__init__()
        self.of = of
        self.attributes: list[dict[Any, Any]] = []

    @property
    def module(self) -> list[dict[Any, Any]]:
        """Of a module its parameters, buffers and modules; empty for other objects."""
        for attributes in self.attributes:
            parts = [attributes.get(key) for key in ("_parameters", "_buffers", "_modules")]
            if all(isinstance(part, dict) for part in parts):
                return [part for part in parts if isinstance(part, dict)]
        return []

    @property
    def parts(self) -> list[dict[Any, Any]]:
        """What names its tensors: of a module its parts, otherwise its items and attributes."""
        return self.module or [self, *self.attributes]

    def append(self, *items: Any) -> None:
        """Nothing: the items of unknown lists are not needed."""

    extend = append


class Unknown:
    """A class or function that is unknown here; calling it makes a stand-in.

    Args:
        name: Its full name.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: Any) -> StandIn:
        """A stand-in that keeps the dictionaries among the arguments."""
        of = args[0] if self.name == "copyreg._reconstructor" and args else self
        made = StandIn(of.name if isinstance(of, Unknown) else self.name)
        made.attributes += [argument for argument in args if isinstance(argument, dict)]
        return made


def load_with_stand_ins(path: Path) -> tuple[Any, tuple[str, ...]]:
    """The content of a torch file in the zip format, and the names that have stand-ins in it.

    Args:
        path: A file that passed the checks of `load_torch`.

    Raises:
        Exception: Whatever a damaged file happens to mean.
        ValueError: If there are no tensors in the file.
    """
    with zipfile.ZipFile(path) as archive:
        entry = next(one for one in archive.infolist() if one.filename.rpartition("/")[2] == "data.pkl")
        prefix = entry.filename.removesuffix("data.pkl")
        if f"{prefix}byteorder" in archive.namelist() and archive.read(f"{prefix}byteorder") != b"little":
            raise ValueError("it was written on a big-endian machine")
        content = archive.read(entry)
        places = {one.filename.removeprefix(f"{prefix}data/"): one for one in archive.infolist()}
    unpickler = _Unpickler(content, path, places)
    loaded = unpickler.load()
    if not unpickler.storages:
        raise ValueError("it holds no tensors")
    return loaded, tuple(unpickler.unknown)


class _Unpickler(_PYTHONS):  # type: ignore[misc]  # it is Any
    def __init__(self, content: bytes, path: Path, places: Mapping[str, zipfile.ZipInfo]) -> None:
        super().__init__(BytesIO(content), encoding="utf-8", errors="replace")
        self.path, self.places = path, places
        self.file = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=path.stat().st_size)
        self.storages: dict[str, torch.UntypedStorage] = {}
        self.unknown: dict[str, Unknown] = {}

    def find_class(self, module: str, name: str) -> Any:
        full = f"{_RENAMED.get(module, module)}.{name}"
        dtype = getattr(torch, name, None) if module == "torch" else None
        known = dtype if isinstance(dtype, torch.dtype) else REBUILD.get(full) or storage_type(full)
        return known or self.unknown.setdefault(full, Unknown(full))

    def get_extension(self, code: int) -> None:
        raise ValueError("it uses Python's registry of extensions")

    def persistent_load(self, pid: Any) -> Storage:
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage" or not isinstance(pid[1], torch.dtype):
            raise ValueError("it refers to something outside the file")
        _, dtype, key, _, count = pid
        if not isinstance(key, str) or type(count) is not int:
            raise ValueError("a storage has no name or size")
        if key not in self.storages:
            self.storages[key] = self._read(self.places[key])
        storage = self.storages[key]
        if not 0 <= count * dtype.itemsize <= storage.nbytes():
            raise ValueError("a storage has fewer bytes than it claims")
        return Storage(storage, dtype)

    def _read(self, entry: zipfile.ZipInfo) -> torch.UntypedStorage:
        """The bytes of an entry, left in the file until somebody reads them."""
        with self.path.open("rb") as file:
            file.seek(entry.header_offset + _HEADER - 4)
            name, extra = struct.unpack("<HH", file.read(4))
        begin = entry.header_offset + _HEADER + int(name) + int(extra)
        if begin + entry.file_size > self.file.nbytes():
            raise ValueError("a storage ends after the file")
        # torch.save aligns to 64 bytes; others do not.
        piece: Any = self.file[begin : begin + entry.file_size]
        storage: torch.UntypedStorage = piece.clone() if begin % 16 else piece
        return storage

    def made(self) -> None:
        """Calls what lies below the top of the stack with the arguments on its top."""
        arguments = self.stack.pop()
        function = self.stack[-1]
        if isinstance(function, StandIn):  # such as a method of an unknown class
            function = Unknown(function.of)
        if not isinstance(arguments, tuple) or not (isinstance(function, Unknown) or function in REBUILD.values()):
            raise ValueError("it calls what is no class or function")
        self.stack[-1] = function(*arguments)

    def made_with_keywords(self) -> None:
        self.stack.pop()
        self.made()

    def build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], StandIn):
            parts = state if isinstance(state, tuple) else (state,)
            self.stack[-1].attributes += [part for part in parts if isinstance(part, dict)]

    def set_items(self, items: Iterable[tuple[Any, Any]]) -> None:
        """Sets the items with keys of plain types: hashing nested tuples may take more stack than there is."""
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update((key, value) for key, value in items if isinstance(key, str | int | float | bytes))

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([(key, value)])

    def set_marked(self) -> None:
        items = self.pop_mark()
        self.set_items(zip(items[::2], items[1::2], strict=False))

    def make_dict(self) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self.set_items(zip(items[::2], items[1::2], strict=False))

    def make_set(self) -> None:
        self.stack.append(StandIn("set"))

    def add_items(self) -> None:
        self.pop_mark()

    def make_frozenset(self) -> None:
        self.pop_mark()
        self.make_set()

    def refuse(self) -> None:
        raise ValueError("it uses opcodes of Python 1")

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **_PYTHONS.dispatch,
        pickle.REDUCE[0]: made,
        pickle.NEWOBJ[0]: made,
        pickle.NEWOBJ_EX[0]: made_with_keywords,
        pickle.INST[0]: refuse,
        pickle.OBJ[0]: refuse,
        pickle.BUILD[0]: build,
        pickle.SETITEM[0]: set_item,
        pickle.SETITEMS[0]: set_marked,
        pickle.DICT[0]: make_dict,
        pickle.EMPTY_SET[0]: make_set,
        pickle.ADDITEMS[0]: add_items,
        pickle.FROZENSET[0]: make_frozenset,
    }
