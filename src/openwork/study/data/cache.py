"""The folder of what openwork makes of data, under names that follow from the data's content."""

import hashlib
import os
import zlib
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from openwork.formats.files import replacing


def cache_folder() -> Path:
    """The folder that the environment variable OPENWORK_CACHE names, ``~/.cache/openwork`` if unset."""
    return Path(os.environ.get("OPENWORK_CACHE") or "~/.cache/openwork").expanduser().absolute()


def kept(name: str, files: Sequence[Path], make: Callable[[], dict[str, Tensor]], *, least: int) -> dict[str, Tensor]:
    """What ``make`` makes of the files, kept for the next process.

    It is made again where the cache has no file that can be read and has the bytes that were written, and not kept
    where it cannot be written.

    Args:
        name: What the tensors are, as the file's name begins; another name if ``make`` makes others of these files.
        files: What they are made of, images, in this order.
        make: Makes them.
        least: The bytes of all tensors together from which on they are kept.
    """
    try:
        path = cache_folder() / f"{name}-{_key(files)}.safetensors"
    except (OSError, RuntimeError):  # a file cannot be read, of which make says more; or the user has no home
        return make()
    try:
        return _read(path)
    except (OSError, SafetensorError):
        found = make()
    if sum(tensor.nbytes for tensor in found.values()) < least:
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file(found, temporary, metadata={"checksum": _checksum(found)})
    except (OSError, SafetensorError):  # nobody may write there, or the disk is full
        pass
    return found


def _read(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        names = file.keys()
        found = {name: file.get_tensor(name) for name in names}
        checksum = (file.metadata() or {}).get("checksum")
    if checksum != _checksum(found):
        raise SafetensorError(f"{path} has other bytes than were written")
    return found


def _checksum(tensors: dict[str, Tensor]) -> str:
    """A CRC-32, which finds what a disk damages, in a hundredth of the time that decoding images takes."""
    found = 0
    for name, tensor in sorted(tensors.items()):
        found = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), found)
        found = zlib.crc32(tensor.contiguous().numpy().data, found)
    return f"{found:08x}"


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
