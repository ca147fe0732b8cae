"""A sparse file that is open: each tensor by its name, when it is asked for."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from openwork.formats.sparse.codecs import DamagedError
from openwork.formats.sparse.described import SUFFIX, Description
from openwork.formats.sparse.dtypes import DTYPES
from openwork.formats.sparse.packed import unpack

_FREE, _FACTOR = 1 << 30, 1024


class SparseFile(Mapping[str, Tensor]):
    """The tensors of a safetensors file by name, each read, and unpacked if it is packed, when it is asked for.

    Args:
        path: The file, which must not change while it is open.
        limit: The most bytes that all tensors may take in memory; None for 1 GiB and 1,024 times the file's own.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, foreign, of a newer format, or larger in memory than ``limit``.
    """

    def __init__(self, path: str | Path, *, limit: int | None = None) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"no file {path}; give a .safetensors file")
        try:
            opened: Any = safe_open  # untyped
            self._file = opened(self.path, framework="pt")
            self.metadata: dict[str, str] = dict(self._file.metadata() or {})
            self.described = Description.from_metadata(self.metadata)
            plain = self.described.check(set(self._file.keys()))
            slices = {name: self._file.get_slice(name) for name in plain}
            self._plain = {name: (str(one.get_dtype()), tuple(one.get_shape())) for name, one in slices.items()}
        except Exception as error:  # SafetensorError, and what torch says of types that it does not have
            raise self._unreadable(error) from error
        self._check_size(limit)

    def form(self, name: str) -> tuple[str, tuple[int, ...]]:
        """The dtype of a tensor, as safetensors names it, and its shape, without reading it."""
        name = self.described.tied.get(name, name)
        packed = self.described.packed.get(name)
        return (packed.dtype, packed.shape) if packed else self._plain[name]

    def __getitem__(self, name: str) -> Tensor:
        """The tensor. Raises KeyError if there is none, and ValueError if it is damaged."""
        name = self.described.tied.get(name, name)
        packed = self.described.packed.get(name)
        if not packed and name not in self._plain:
            raise KeyError(name)
        try:
            tensor: Tensor = self._file.get_tensor(name + SUFFIX if packed else name)
            if not packed:
                return tensor
            if tensor.dtype != torch.uint8:
                raise DamagedError(f"its frames are {tensor.dtype}")
            return unpack(packed, tensor.reshape(-1).numpy())
        except ImportError:
            raise
        except Exception as error:
            raise self._unreadable(error, name) from error

    def __contains__(self, name: object) -> bool:
        return any(name in part for part in (self._plain, self.described.packed, self.described.tied))

    def __iter__(self) -> Iterator[str]:
        return iter(sorted([*self._plain, *self.described.packed, *self.described.tied]))

    def __len__(self) -> int:
        return len(self._plain) + len(self.described.packed) + len(self.described.tied)

    def _check_size(self, limit: int | None) -> None:
        size = self.path.stat().st_size
        most = _FREE + _FACTOR * size if limit is None else limit
        taken = sum(packed.dense_bytes for packed in self.described.packed.values())
        taken += sum(_bytes(dtype, shape) for dtype, shape in self._plain.values())
        if taken > most:
            raise ValueError(
                f"{self.path} has {size:,} bytes and takes {taken:,} in memory, more than {most:,}; if you trust it, "
                f"give limit={taken}"
            )

    def _unreadable(self, cause: Exception, name: str = "") -> ValueError:
        text = f"{name[:80]}: " * bool(name) + (str(cause).split("\n")[0][:120] or type(cause).__name__)
        cure = cause.cure if isinstance(cause, DamagedError) else "copy it again from its source"
        return ValueError(f"{self.path} is not a readable safetensors file ({text}); {cure}")


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
    kind = DTYPES.get(dtype)
    return math.prod(shape) * (kind.word * kind.words if kind else 1)
