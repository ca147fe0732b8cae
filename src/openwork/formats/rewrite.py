"""A copy of a safetensors checkpoint in which some tensors have other values: every other byte is the same.

Sizes stay, so headers, the files that hold each tensor, metadata and the index stay, too.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from openwork.formats.checkpoint import read_checkpoint
from openwork.formats.files import creating, refuse_existing, replacing
from openwork.formats.sparse.file import SparseFile

Change = Callable[[str, Tensor], Tensor | None]
"""(a tensor's name, its value) -> its new value, of the same dtype and shape; None leaves it as it is."""

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".ot", ".tflite")


@dataclass(frozen=True)
class WeightFiles:
    """Where a checkpoint of safetensors files keeps its tensors.

    Args:
        path: The file or the folder.
        files: The files that hold the weights.
        tensors: All tensors by name; they stay in their files until they are read.
    """

    path: Path
    files: tuple[Path, ...]
    tensors: Mapping[str, Tensor]

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder, with a configuration beside the weights."""
        return self.path.is_dir()


def find_weight_files(path: Path) -> WeightFiles:
    """Where a safetensors file, or a Hugging Face folder of them, keeps its tensors.

    Raises:
        FileNotFoundError: If there is no such file, or the folder holds no weights.
        ValueError: If the weights are damaged, pickled or packed.
    """
    tensors = read_checkpoint(path).tensors
    single, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if not path.is_dir():
        files = [path]
    elif single.is_file():
        files = [single]
    elif index.is_file():
        files = [path / name for name in dict.fromkeys(json.loads(index.read_bytes())["weight_map"].values())]
    else:
        files = [path]
    for file in files:
        if file.suffix != ".safetensors":
            raise ValueError(
                f"{file} has no safetensors file, and a pickle is not written again; convert the weights first: "
                f"openwork export {path} --to dense --out model.safetensors"
            )
        described = SparseFile(file).described
        if described.packed or described.tied:
            raise ValueError(f"{file} is packed; give its plain twin: openwork export {file} --to dense")
    return WeightFiles(path, tuple(files), tensors)


def rewrite(found: WeightFiles, target: Path, change: Change) -> tuple[str, ...]:
    """Copies the checkpoint to ``target``, which appears when all of it is there, with some tensors changed.

    Files of a folder that are no weights are copied as they are. Weights in other formats are left out, since they
    would still be the old ones.

    Args:
        found: The checkpoint.
        target: The file or folder to create.
        change: Asked for every tensor, one in memory at a time.

    Returns:
        The files that were left out, relative to the folder.

    Raises:
        FileExistsError: If there is something at ``target``.
        FileNotFoundError: If there is no folder to create it in.
        ValueError: If ``target`` would lie in the folder that is copied.
    """
    if not found.is_folder:
        refuse_existing(target)
        with replacing(target) as temporary:
            shutil.copyfile(found.path, temporary)
            _overwrite(temporary, found, change)
        return ()
    if target.absolute().is_relative_to(found.path.absolute()):
        raise ValueError(f"{target} would lie in {found.path}, which is copied; give another place")
    left_out = []
    with creating(target) as temporary:
        for path in sorted(found.path.rglob("*")):
            name = path.relative_to(found.path)
            if name.parts[0].startswith(".") or not path.is_file():
                continue
            if len(name.parts) == 1 and path.suffix in _WEIGHTS and path not in found.files:
                left_out.append(str(name))
                continue
            copy = temporary / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            if path in found.files:
                _overwrite(copy, found, change)
    return tuple(left_out)


def _overwrite(path: Path, found: WeightFiles, change: Change) -> None:
    """Writes the changed tensors of a file over the old ones."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for name, entry in header.items():
            if name not in found.tensors:  # the file's metadata, or what the index does not list
                continue
            before = found.tensors[name]
            after = change(name, before)
            if after is None:
                continue
            if after.dtype != before.dtype or after.shape != before.shape:
                raise RuntimeError(f"{name} would become {after.dtype} {tuple(after.shape)}")
            begin, end = entry["data_offsets"]
            content = after.contiguous().flatten().view(torch.uint8).numpy()
            if content.nbytes != end - begin:
                raise RuntimeError(f"{name} would take {content.nbytes} bytes instead of {end - begin}")
            file.seek(8 + length + begin)
            file.write(content.tobytes())


def differ(first: Tensor, second: Tensor) -> Tensor:
    """Where two tensors of one shape differ, bool; NaN is like NaN."""
    return (first != second) & ~((first != first) & (second != second))
