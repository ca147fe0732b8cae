"""Saving tensors as a plain safetensors file, which every converter reads."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from openwork.formats.sparse.container import checked_target, write
from openwork.formats.sparse.dtypes import DTYPES, NAMES
from openwork.formats.sparse.save import Saved, dense_entry
from openwork.formats.sparse.tensors import untied


def save_dense(state: Mapping[str, Tensor], path: Path) -> Saved:
    """Saves all tensors as they are, under their names, one in memory at a time; nothing in the file is openwork's.

    Tied tensors are all there; the metadata maps their names to the first one's, as safetensors' own `save_model` does.

    Args:
        state: The tensors by name.
        path: The file to replace or create.

    Raises:
        FileNotFoundError: If there is no folder for ``path``.
        ValueError: If a plain file cannot hold the state, or ``path`` is no file.
    """
    path = checked_target(path)
    tensors, tied = untied(state)
    for name, tensor in tensors.items():
        if not DTYPES[NAMES[tensor.dtype]].plain:
            raise ValueError(f"{name!r} is {tensor.dtype}, which few readers know; save it sparse, or convert it")
    entries = [dense_entry(name, tensor) for name, tensor in state.items()]
    size = write(path, entries, {**tied, "format": "pt"})
    return Saved(path, sum(tensor.nbytes for tensor in tensors.values()), size, dict.fromkeys(state, "dense"))
