"""Saving a model's tensors as a sparse file."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from torch import Tensor, nn

from openwork.core.converted import refuse_converted
from openwork.core.sparsifier import Sparsifier
from openwork.formats.files import temporary_prefix, writing
from openwork.formats.sparse.container import Entry, checked_target, write
from openwork.formats.sparse.described import CHECK, KEY, SUFFIX, Description
from openwork.formats.sparse.dtypes import DTYPES, NAMES
from openwork.formats.sparse.packed import Packed, pack
from openwork.formats.sparse.tensors import in_bytes, is_text, plain_tensor, untied
from openwork.formats.sparse.threads import in_threads

_SMALL = 256  # bytes; a row and a header entry cost as much
_ROW = 150  # bytes, about


@dataclass(frozen=True)
class Saved:
    """What `save` wrote.

    Args:
        path: The file.
        dense_bytes: The tensors' bytes before, tied ones once.
        file_bytes: The file's bytes.
        codes: The code by tensor: "dense", or what it says of its positions, "all", "bits" or "gaps".
    """

    path: Path
    dense_bytes: int
    file_bytes: int
    codes: dict[str, str]

    def counts(self) -> dict[str, int]:
        """The number of tensors by code."""
        found = [*self.codes.values()]
        return {code: found.count(code) for code in dict.fromkeys(found)}


def save(
    model: nn.Module | Sparsifier | Mapping[str, Tensor],
    path: str | Path,
    *,
    metadata: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> Saved:
    """Saves a model's tensors in a small safetensors file, lossless; `load` reads it.

    Each tensor takes the smallest of: its bytes as they are; its values with their exponents coded; and the positions
    and values of what is not zero, coded. Tied tensors are there once.

    Args:
        model: A model, its state dict, or a sparsifier, whose finalized model is saved, with technique and sparsities.
        path: The file, which by convention ends in ``.safetensors``.
        metadata: Texts by name to keep in the file, such as ``{"run": "3f2a"}``.
        threads: How many tensors are packed at a time; by default as many as there are processors, at most 8.

    Raises:
        TypeError: If ``model`` is none of the three, or ``metadata`` is no mapping.
        FileNotFoundError: If there is no folder for ``path``.
        OSError: If it cannot be written there, as on a full disk. What was there before stays.
        ValueError: If the state holds what a file of tensors cannot hold, ``metadata`` takes a name of openwork's, or
            ``path`` is no file, or `accelerate` has converted a layer.
        ImportError: If zstandard is missing: ``pip install "openwork[files]"``.
    """
    if not isinstance(metadata, Mapping | None):
        raise TypeError(f"metadata must map texts to texts, got {metadata!r}; pass a dict such as {{'run': '3f2a'}}")
    path, texts = checked_target(path), dict(metadata or {})
    if taken := [name for name in texts if name in (KEY, CHECK, "format")]:
        raise ValueError(f"metadata may not be named {taken[0]!r}, which every file has; choose another name")
    if not all(is_text(text) for pair in texts.items() for text in pair):
        raise ValueError(f"metadata must map texts to texts, got {texts!r}; use json.dumps for other values")
    if isinstance(model, Sparsifier):
        sparsity = {name: round(value, 6) for name, value in model.layer_sparsity().items()}
        texts = {"technique": repr(model.technique), "sparsity": json.dumps(sparsity), **texts}
        model = model.finalized_copy()
    if isinstance(model, nn.Module):
        refuse_converted(model)  # of a kernel's buffers nothing loads a model again
    state = model.state_dict() if isinstance(model, nn.Module) else model
    tensors, tied = untied(state)
    taken_names = {f"{name}{SUFFIX}" for name in state} & {*state}
    rows: dict[str, Packed] = {}
    entries: list[Entry] = []
    with writing(path), tempfile.TemporaryFile(dir=path.parent, prefix=temporary_prefix(path)) as spool:
        for name, packed in in_threads(partial(_packed, reserved=taken_names), tensors, threads):
            if packed is None:
                entries.append(dense_entry(name, tensors[name]))
                continue
            rows[name], frames = packed
            begin = spool.tell()
            spool.write(frames)
            entries.append(Entry(f"{name}{SUFFIX}", "U8", (len(frames),), partial(_again, spool, begin, len(frames))))
        described = Description(rows, tied)
        size = write(path, entries, {"format": "pt", **texts, **described.to_metadata()})
    dense = sum(tensor.nbytes for tensor in tensors.values())
    return Saved(path, dense, size, {n: rows[n].positions if n in rows else "dense" for n in tensors})


def dense_entry(name: str, tensor: Tensor) -> Entry:
    """The tensor as it is, under its own name."""
    return Entry(name, NAMES[tensor.dtype], tensor.shape, lambda: in_bytes(tensor).numpy())


def _packed(name: str, tensor: Tensor, reserved: set[str]) -> tuple[Packed, bytes] | None:
    """The packed tensor, or None if it is smaller as it is."""
    plain = DTYPES[NAMES[tensor.dtype]].plain
    if not plain and f"{name}{SUFFIX}" in reserved:
        raise ValueError(
            f"{name!r} is {tensor.dtype}, whose bytes are always packed, under the name {name + SUFFIX!r}, which "
            "another tensor has; rename one of them"
        )
    if plain and (tensor.nbytes <= _SMALL or f"{name}{SUFFIX}" in reserved):
        return None
    packed, frames = pack(plain_tensor(tensor))
    return None if plain and len(frames) + _ROW >= tensor.nbytes else (packed, frames)


def _again(spool: IO[bytes], begin: int, size: int) -> bytes:
    spool.seek(begin)
    return spool.read(size)
