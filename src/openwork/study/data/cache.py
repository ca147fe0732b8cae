"""The folder of what openwork makes of data, under names that follow from the data's content."""

import hashlib
import os
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from openwork.formats.files import replacing


def cache_folder() -> Path:
    """The folder that the environment variable OPENWORK_CACHE names, ``~/.cache/openwork`` if unset."""
    return Path(os.environ.get("OPENWORK_CACHE") or "~/.cache/openwork").expanduser().absolute()


def kept(name: str, files: Sequence[Path], make: Callable[[], dict[str, Tensor]], *, least: int) -> dict[str, Tensor]:
    """What ``make`` makes of the files, kept for the next process.

    It is made again where the cache has no file that can be read, and not kept where it cannot be written.

    Args:
        name: What the tensors are, as the file's name begins.
        files: What they are made of, images, in this order.
        make: Makes them.
        least: The bytes of all tensors together from which on they are kept.
    """
    path = None
    try:
        path = cache_folder() / f"{name}-{_key(files)}.safetensors"
        return load_file(path)
    except (OSError, SafetensorError, RuntimeError):  # RuntimeError: this user has no home
        found = make()
    if path is None or sum(tensor.nbytes for tensor in found.values()) < least:
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file(found, temporary)
    except (OSError, SafetensorError):  # nobody may write there, or the disk is full
        pass
    return found


def _key(files: Sequence[Path]) -> str:
    """What follows from the files' bytes and their decoder's version: JPEG leaves a decoder some freedom."""
    try:
        found = hashlib.sha256(version("pillow").encode())
    except PackageNotFoundError:
        found = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:16]
