"""Loading files of `torch.save` from elsewhere: no code runs, and no memory is taken beyond the file's size."""

import mmap
import pickletools
import warnings
import zipfile
from pathlib import Path
from typing import Any, cast

import torch

_CURE = "it must be complete and hold only tensors and plain values"
# bytearray(n) fills n bytes, and torch's restricted unpickler lets a pickle call it: a tiny file could take all memory.
_FILLS_MEMORY = b"bytearray\n"
# Hashing a tuple takes a frame of the C stack for each level, and 80,000 levels end the process.
_TUPLES = (b"\x85", b"\x86", b"\x87", b"t")
_LEVELS = 10_000
_PICKLES = 5  # of the format before torch 1.6: three of the format, the content, the names of storages


def load_torch(path: Path, *, mapped: bool = False) -> Any:
    """The content of a torch file of tensors and plain values, on the CPU.

    Args:
        path: The file.
        mapped: Leave the tensors in the file until they are read, where its format allows; not for a file that will be
            overwritten.

    Raises:
        ValueError: If it is any other file, or one that would execute code or take more memory than its own size.
    """
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    if is_zip:
        _check_archive(path)
    elif path.stat().st_size:
        _check_old_format(path)
    # A load that fails leaves its sparse tensors in torch's list, and the next load would check them, whoever's it is.
    unchecked: list[Any] = torch._utils._sparse_tensors_to_validate
    unchecked.clear()
    try:
        # Without these checks, a sparse tensor with indices out of range reads and writes foreign memory.
        with warnings.catch_warnings(), torch.sparse.check_sparse_tensor_invariants():  # type: ignore[no-untyped-call]  # torch's gap
            warnings.simplefilter("ignore")  # about the beta state of what somebody else saved
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and is_zip)
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to mean
        raise ValueError(f"{path} is not a readable torch checkpoint ({_reason(error)}); {_CURE}") from error
    finally:
        unchecked.clear()


def _check_archive(path: Path) -> None:
    """Raises ValueError for an archive that is damaged, not torch's, or larger unpacked than packed."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = {entry.filename.rpartition("/")[2] for entry in entries}
            if "constants.pkl" in names:
                raise ValueError(
                    f"{path} is a TorchScript program; load it with torch.jit.load and save its state_dict()"
                )
            pickles = [entry for entry in entries if entry.filename.rpartition("/")[2] == "data.pkl"]
            if not pickles:
                raise ValueError(f"{path} is a zip archive, but not torch's; unpack it and give the checkpoint inside")
            unpacked = sum(entry.file_size for entry in entries)
            if unpacked > path.stat().st_size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ValueError(
                    f"{path} unpacks to {unpacked:,} bytes from {path.stat().st_size:,}, and torch.save does not "
                    "compress; if you trust it, unpack it and pack it again with `zip -0 -r`"
                )
            for content in map(archive.read, pickles):
                if _FILLS_MEMORY in content:
                    raise ValueError(f"{path} asks for memory that it does not fill; save it again without bytearrays")
                if nests_tuples(content):
                    raise ValueError(f"{path} nests thousands of tuples, which no checkpoint does; {_CURE}")
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a readable torch checkpoint ({_reason(error)}); {_CURE}") from error


def nests_tuples(content: bytes | mmap.mmap) -> bool:
    """Whether a pickle nests tuples deeper than any checkpoint does.

    Args:
        content: The pickle, or a mapped file that stands where one begins, and afterwards where it ends.
    """
    if isinstance(content, bytes) and sum(map(content.count, _TUPLES)) < _LEVELS:
        return False  # the usual case, without looking at the opcodes
    stack: list[int | None] = []  # the depth of each object; None for a mark
    memo: dict[Any, int] = {}
    try:
        for opcode, argument, _ in pickletools.genops(cast(bytes, content)):  # a map reads as files do
            kind = opcode.name
            if kind == "MARK":
                stack.append(None)
            elif kind in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
                memo[len(memo) if kind == "MEMOIZE" else argument] = stack[-1] or 0
            elif kind in ("GET", "BINGET", "LONG_BINGET"):
                stack.append(memo.get(argument, 0))
            elif kind == "DUP":
                stack.append(stack[-1])
            else:
                taken = _taken(stack, opcode)
                deepest = max(taken, default=0) + kind.startswith("TUPLE")
                if deepest > _LEVELS:
                    return True
                stack += [deepest] * len(opcode.stack_after)
    except (ValueError, IndexError, OverflowError):  # not a sound pickle, which torch will say
        return False
    return False


def _taken(stack: list[int | None], opcode: pickletools.OpcodeInfo) -> list[int]:
    """Removes what the opcode takes from the stack; the depths of these objects."""
    before = opcode.stack_before
    if pickletools.markobject not in before:
        return [stack.pop() or 0 for _ in before]
    taken = []
    while (depth := stack.pop()) is not None:
        taken.append(depth)
    return taken + [stack.pop() or 0 for _ in before[: before.index(pickletools.markobject)]]


def _check_old_format(path: Path) -> None:
    """Raises ValueError for a file of the format from before torch 1.6 that takes memory or stack without end."""
    # Not the file itself: reading a length that a pickle claims would take that memory.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(_FILLS_MEMORY) >= 0:
            raise ValueError(f"{path} asks for memory that it does not fill; save it again without bytearrays")
        if any(nests_tuples(content) for _ in range(_PICKLES)):
            raise ValueError(f"{path} nests thousands of tuples, which no checkpoint does; {_CURE}")


def _reason(error: Exception) -> str:
    """The part of torch's paragraph that says what is wrong, in one line."""
    text = str(error)
    if "Unsupported global: GLOBAL " in text:
        name = text.partition("Unsupported global: GLOBAL ")[2].split()[0]
        return f"it would import {name[:80]}; save model.state_dict() instead of the object"
    text = text.partition("WeightsUnpickler error: ")[2] or text
    return text.strip().split("\n")[0].split(". ")[0][:120] or type(error).__name__
