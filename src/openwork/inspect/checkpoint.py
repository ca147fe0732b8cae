"""Reading the tensors of any checkpoint, without executing code from it."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` or torch (``.pt``, ``.pth``, ``.bin``) file, by name.

    Of a nested torch checkpoint, the one under "model" or "state_dict". Raises FileNotFoundError, and ValueError for a
    file that is truncated, foreign, without tensors, or would have to execute code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint file {path}; give a .safetensors or .pt file")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        except SafetensorError as error:
            raise ValueError(
                f"{path} is not a readable safetensors file ({error}); copy it again from its source"
            ) from error
    content = load_torch(path)
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise ValueError(f"{path} holds no tensors by name; save a state_dict")
    return tensors


def load_torch(path: Path) -> Any:
    """The content of a torch file of tensors and plain values. Raises ValueError for any other file."""
    with path.open("rb") as file:
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged pickle raises whatever its bytes happen to mean
            reason = str(error).strip().split("\n")[0].split(". ")[0][:120] or type(error).__name__
            raise ValueError(
                f"{path} is not a readable torch checkpoint ({reason}); "
                "it must be complete and hold only tensors and plain values"
            ) from error
