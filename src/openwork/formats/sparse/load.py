"""Loading the tensors of a file, without a model, and executing nothing."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from openwork.formats.sparse.file import SparseFile
from openwork.formats.sparse.threads import in_threads


def load(
    path: str | Path, *, names: Iterable[str] | None = None, limit: int | None = None, threads: int | None = None
) -> dict[str, Tensor]:
    """The tensors of a file that `save` wrote, or of any other safetensors file, by name.

    They are the same to the last bit, on the CPU. Tied tensors are one.

    Args:
        path: The file.
        names: Which tensors to read; the others are not. By default all.
        limit: The most bytes that all tensors of the file may take in memory. By default 1 GiB and 1,024 times the
            file's own bytes, so that a small damaged file takes no more.
        threads: How many tensors are unpacked at a time; by default as many as there are processors, at most 8.

    Raises:
        TypeError: If ``names`` is one name.
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, foreign, of a newer format, or larger in memory than ``limit``, or has no
            tensor of a name.
        ImportError: If tensors are packed and zstandard is missing: ``pip install "openwork[files]"``.
    """
    if isinstance(names, str):
        raise TypeError(f"names are several, got {names!r}; pass [{names!r}]")
    file = SparseFile(path, limit=limit)
    wanted = [*file] if names is None else [*names]
    if missing := [name for name in wanted if name not in file]:
        raise ValueError(f"{path} has no tensor {missing[0]!r}; it has {len(file)}, such as {next(iter(file), None)!r}")
    return read(file, wanted, threads=threads)


def read(file: SparseFile, names: Sequence[str], *, threads: int | None = None) -> dict[str, Tensor]:
    """The tensors of these names, in this order; tied ones are one."""
    tied = file.described.tied
    first = {tied.get(name, name): None for name in names}
    found = dict(in_threads(lambda name, _: file[name], first, threads))
    return {name: found[tied.get(name, name)] for name in names}
