"""Reading the tensors of any checkpoint, file or folder, without executing code from it.

Tensors stay in the file until somebody reads them (memory-mapped), so that a checkpoint may be larger than the memory;
only a file in torch's format from before version 1.6 is read whole.
"""

import json
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openwork.formats.model_part import Checkpoint, model_tensors
from openwork.formats.sparse.file import SparseFile
from openwork.formats.sparse.load import read
from openwork.formats.stand_ins import load_with_stand_ins
from openwork.formats.tensorflow.place import is_prefix
from openwork.formats.tensorflow.state import read_state
from openwork.formats.torch_file import load_torch

_FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# What a pickle of plain values names, too.
_PLAIN = {"torch.device", "torch.Tensor", "_codecs.encode", "copyreg._reconstructor", "builtins.set", "builtins.object"}
_JSON_LIMIT = 100_000_000  # bytes, the limit of a safetensors header too
# (offset, bytes there, what it is, what to do instead)
_FOREIGN = (
    (0, b"GGUF", "a GGUF file", "give the safetensors checkpoint that it was converted from"),
    (0, b"\x89HDF\r\n", "an HDF5 (Keras) file", "convert it to safetensors"),
    (0, b"\x93NUMPY", "a NumPy array", "save it under a name with safetensors"),
    (4, b"TFL3", "a TensorFlow Lite file", "convert it to safetensors"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run `git lfs pull`"),
    (0, b"<!DOCTYPE", "a web page, not the file itself", "download it again from its source"),
    (0, b"<html", "a web page, not the file itself", "download it again from its source"),
    (0, b"\x1f\x8b", "compressed with gzip", "unpack it first"),
    (0, b"\xfd7zXZ", "compressed with xz", "unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it first"),
    (257, b"ustar", "a tar archive", "unpack it first"),
)
_FOREIGN_SUFFIXES = {
    ".onnx": ("an ONNX file", "give the PyTorch checkpoint that it was exported from"),
    ".msgpack": ("a Flax file", "convert it to safetensors"),
}


def read_checkpoint(path: str | Path) -> Checkpoint:
    """The tensors of a ``.safetensors`` or torch (``.pt``, ``.pth``, ``.bin``) file, or of a Hugging Face folder.

    Tensors that `openwork.save` packed are the dense ones, in memory. The prefix of a TensorFlow checkpoint, or its
    ``.index`` file, is read as `read_state` does.

    Of a torch file with classes that are unknown here, the tensors are read and the objects left out: nothing is
    imported, and no code of the file runs.

    Args:
        path: The file or folder. From a nested torch checkpoint come the tensors under "model", "state_dict" or another
            usual key.

    Raises:
        FileNotFoundError: If there is no such file, or a folder does not say which file to read.
        ValueError: If the file is truncated or foreign, or has no tensors that can be read without executing code.
    """
    path = Path(path)
    if is_prefix(path):
        return read_state(path)
    if path.is_dir():
        path = _in_folder(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint file {path}; give a .safetensors or .pt file")
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    with path.open("rb") as file:
        head = file.read(512)
    if path.suffix == ".safetensors" and not head.startswith(b"version https://git-lfs"):
        return Checkpoint(_read_safetensors(path))
    _refuse_foreign(path, head)
    if head[8:9] == b"{" and not head.startswith((b"PK", b"\x80")):  # safetensors under another name
        return Checkpoint(_read_safetensors(path))
    content, unknown = _load(path)
    checkpoint = model_tensors(content, str(path))
    if unknown:
        names = ", ".join(unknown[:3]) + (f" and {len(unknown) - 3:,} more" if len(unknown) > 3 else "")
        checkpoint = replace(checkpoint, notes=(*checkpoint.notes, f"{names}: unknown here, not imported and left out"))
    size = path.stat().st_size
    for name, tensor in checkpoint.tensors.items():
        if sum(part.untyped_storage().nbytes() for part in _parts(tensor)) > size:
            raise ValueError(f"{path} claims more bytes for {name!r} than it has; copy it again from its source")
    return checkpoint


def _load(path: Path) -> tuple[Any, tuple[str, ...]]:
    """The content of a torch file, and the names of classes in it that have stand-ins."""
    try:
        return load_torch(path, mapped=True), ()
    except ValueError as error:
        if not isinstance(error.__cause__, pickle.UnpicklingError):  # no question of classes
            raise
        try:
            content, unknown = load_with_stand_ins(path)
        except Exception:  # a damaged pickle raises whatever its bytes happen to mean
            raise error from error.__cause__
        return content, tuple(name for name in unknown if name not in _PLAIN)


def _parts(tensor: Tensor) -> list[Tensor]:
    """The strided tensors that a tensor consists of."""
    if tensor.is_sparse:
        return [tensor._indices(), tensor._values()]
    return [] if tensor.is_meta or tensor.is_nested else [tensor] if _is_strided(tensor) else [tensor.values()]


def _is_strided(tensor: Tensor) -> bool:
    return str(tensor.layout) == "torch.strided"


def _natural(name: str) -> list[tuple[int, str]]:
    """A sorting key for files that keep their names in the alphabet's order: layer 2 before layer 10."""
    return [(len(part) if part.isdecimal() else 0, part) for part in re.split(r"([0-9]+)", name)]


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    file = SparseFile(path)
    tensors = read(file, sorted(file, key=_natural))
    if not tensors:
        raise ValueError(f"{path} holds no tensors; give the file that holds the weights")
    # safetensors' convention: a tied tensor's name, and the name of its like
    for name, like in file.metadata.items():
        if name in tensors and like in tensors and _same(tensors[name], tensors[like]):
            tensors[name] = tensors[like]
    return tensors


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal to the last bit."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(*(tensor.contiguous().flatten().view(torch.uint8) for tensor in (a, b)))


def _refuse_foreign(path: Path, head: bytes) -> None:
    kinds = [(what, cure) for offset, magic, what, cure in _FOREIGN if head[offset:].startswith(magic)]
    if path.suffix in _FOREIGN_SUFFIXES:
        kinds.append(_FOREIGN_SUFFIXES[path.suffix])
    if not head:
        kinds.append(("empty", "copy it again from its source"))
    if kinds:
        raise ValueError(f"{path} is {kinds[0][0]}; {kinds[0][1]}")


def _in_folder(folder: Path) -> Path:
    """The file that holds, or lists, the weights of a Hugging Face folder; the only checkpoint of any other folder."""
    for name in _FOLDER_FILES:
        if (folder / name).is_file():
            return folder / name
    found = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".pt", ".pth", ".bin", ".ckpt"))
    if len(found) != 1:
        has = f"has {len(found)} checkpoints" if found else "has no checkpoint"
        raise FileNotFoundError(f"no model.safetensors in {folder}, which {has}; give one file")
    return found[0]


def _read_shards(index: Path) -> Checkpoint:
    """The tensors of all files that a Hugging Face ``*.index.json`` lists, in its order."""
    cure = "copy the folder again from its source"
    if index.stat().st_size > _JSON_LIMIT:
        raise ValueError(f"{index} is larger than {_JSON_LIMIT:,} bytes, which no list of tensors is; {cure}")
    try:
        content = json.loads(index.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{index} is not readable JSON ({str(error)[:120]}); {cure}") from error
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(shard, str) for shard in places.values()):
        raise ValueError(f"{index} has no weight_map of tensor names to files; {cure}")
    shards: dict[str, dict[str, Tensor]] = {}
    for shard in dict.fromkeys(places.values()):
        if shard in ("", ".", "..") or "/" in shard or "\\" in shard or shard.endswith(".json"):
            raise ValueError(f"{index} names {shard!r}, which is not a file in the same folder; {cure}")
        if not (index.parent / shard).is_file():
            raise FileNotFoundError(f"{index} names {shard!r}, which is not there; {cure}")
        shards[shard] = read_checkpoint(index.parent / shard).tensors
    missing = [name for name, shard in places.items() if name not in shards[shard]]
    if missing:
        raise ValueError(f"{places[missing[0]]!r} lacks {missing[0]!r}, which {index} places there; {cure}")
    unlisted = [name for tensors in shards.values() for name in tensors if name not in places]
    return Checkpoint({name: shards[places[name]][name] for name in sorted(places, key=_natural)}, tuple(unlisted))
