"""A folder with the blocks that are finished, from which a prune that was killed goes on, bit for bit."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from openwork.core.masks.blockwise.blocks import Block
from openwork.core.masks.blockwise.examples import Example
from openwork.core.masks.blockwise.result import PrunedLayer

FORMAT = 2
"""Of the folder."""


class Finished:
    """The finished blocks of one prune: ``plan.json`` says which prune, ``<number>.safetensors`` holds a block.

    Args:
        folder: The folder, which is made where there is none.
        model: The model.
        blocks: All its blocks.
        examples: The inputs.
        settings: What else the result depends on, by name.

    Raises:
        ValueError: If the folder holds another prune, or other files.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        blocks: Sequence[Block],
        examples: Sequence[Example],
        settings: Mapping[str, object],
    ) -> None:
        self.folder, self.blocks, self._named = folder, list(blocks), set(settings)
        inside = {id(weight.parameter) for block in blocks for weight in block.weights}
        others = (parameter for parameter in model.parameters() if id(parameter) not in inside)
        self.plan: dict[str, Any] = {
            "format": FORMAT,
            **{name: str(value) for name, value in settings.items()},
            "blocks": [block.name for block in blocks],
            "inputs": digest(value for each in examples for value in (*each.args, *each.kwargs.values())),
            "parameters outside of the blocks": digest(others),
            "counts": None,
        }
        self._buffers = digest(model.buffers())
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"resume={str(folder)!r} is a file; pass a folder for finished blocks")
        dense = [digest(weight.parameter for weight in block.weights) for block in blocks]
        if (folder / "plan.json").exists():
            self._check(dense)
        elif folder.exists() and any(file.suffix != ".new" for file in folder.iterdir()):
            raise ValueError(f"{folder} holds other files; pass resume= a new folder, or that of a prune of this model")
        else:
            self.plan |= {"weights": dense, "buffers": [self._buffers]}

    def begin(self, counts: Mapping[str, int] | None) -> None:
        """Writes the plan, with the counts that an allocation has found for the dense model, where there are any."""
        self.plan["counts"] = None if counts is None else dict(counts)
        self._write("plan.json", json.dumps(self.plan, indent=1).encode())

    def end(self, model: nn.Module) -> None:
        """Notes the buffers that the end has left, such as the statistics of batch norms: this model may come again."""
        self.plan["buffers"] = [self.plan["buffers"][0], digest(model.buffers())]
        self._write("plan.json", json.dumps(self.plan, indent=1).encode())

    @property
    def counts(self) -> dict[str, int] | None:
        """Those of a prune that has begun."""
        counts: dict[str, int] | None = self.plan["counts"]
        return counts

    @property
    def begun(self) -> bool:
        """Whether the plan has been written."""
        return (self.folder / "plan.json").exists()

    def layers(self, block: Block) -> list[PrunedLayer] | None:
        """What became of the layers of a block, whose weights are now in the model; None where it is not finished."""
        if not self._file(block).exists():
            return None
        tensors, rows = self._read(block)
        with torch.no_grad():
            for weight, tensor in zip(block.weights, tensors, strict=True):
                weight.parameter.copy_(tensor)
        return [PrunedLayer(**row) for row in rows]

    def add(self, block: Block, layers: Sequence[PrunedLayer]) -> None:
        """Writes a block that is finished."""
        tensors = {weight.name: weight.parameter.detach().cpu().contiguous() for weight in block.weights}
        rows = json.dumps([asdict(layer) for layer in layers])
        self._write(self._file(block).name, save(tensors, {"layers": rows}))

    def _file(self, block: Block) -> Path:
        return self.folder / f"{self.blocks.index(block):04d}.safetensors"

    def _read(self, block: Block) -> tuple[list[Tensor], list[dict[str, Any]]]:
        """The weights of a finished block, and what its layers became."""
        file = self._file(block)
        try:
            with safe_open(file, "pt") as held:
                tensors = [held.get_tensor(weight.name) for weight in block.weights]
                return tensors, json.loads(held.metadata()["layers"])
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged ({error}); remove it, and its block is pruned anew") from error

    def _check(self, dense: list[str]) -> None:
        """Raises ValueError unless the folder's prune is this one; takes over what it has found."""
        try:
            saved = json.loads((self.folder / "plan.json").read_text())
            before: list[str] = saved["weights"]
            buffers: list[str] = saved["buffers"]
        except (ValueError, KeyError, TypeError) as error:
            file = self.folder / "plan.json"
            raise ValueError(f"{file} is damaged ({error}); remove the folder to begin anew") from error
        for name in self.plan.keys() - {"counts"}:
            if saved.get(name) != self.plan[name]:
                what = f"whose {name} is {saved.get(name)}" if name in self._named else f"with other {name}"
                raise ValueError(f"{self.folder} holds a prune {what}; pass what it was begun with, or another folder")
        for block, then, now in zip(self.blocks, before, dense, strict=True):
            # A finished block may also be as that prune has left it in memory.
            left = self._file(block).exists() and then != now and digest(self._read(block)[0]) == now
            if then != now and not left:
                raise ValueError(
                    f"{self.folder} holds a prune of a model with other weights in {block.name}; load the model that "
                    "it was begun with, or pass another folder"
                )
        if self._buffers not in buffers:
            raise ValueError(
                f"{self.folder} holds a prune of a model with other buffers, such as the statistics of batch norms; "
                "load the model that it was begun with, or pass another folder"
            )
        self.plan = saved

    def _write(self, name: str, data: bytes) -> None:
        """Writes a file as a whole: a kill leaves the old one or none."""
        draft = self.folder / f"{name}.new"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.folder / name)
        except OSError as error:  # of a full disk, which names no file
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(self.folder / name)) from error


def digest(values: Iterable[Any]) -> str:
    """A hash of tensors, bit for bit, and of numbers and texts, and of what lists and mappings hold."""
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, Tensor):
            found.update(f"{value.dtype} {tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, Mapping):
            found.update(f"{[*map(str, value)]} {digest(value.values())}".encode())
        elif isinstance(value, tuple | list):
            found.update(f"{len(value)} {digest(value)}".encode())
        else:
            plain = isinstance(value, bool | int | float | complex | str | bytes | None)
            found.update(f"{type(value).__name__} {value!r}".encode() if plain else type(value).__name__.encode())
    return found.hexdigest()
