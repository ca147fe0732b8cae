"""The file checkpoint.pt of a run: all that resuming needs, or, once it is trained, its weights, masks and rows."""

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from openwork.core.sparsifier import Sparsifier
from openwork.formats.torch_file import load_torch
from openwork.study.files import write_atomically
from openwork.study.models.transformer import Transformer
from openwork.study.results.directory import is_run

_KEYS = {"run", "model", "sparsifier"}


def model_state(run: str, model: nn.Module, sparsifier: Sparsifier | None) -> dict[str, Any]:
    """The weights and masks of a run, which its checkpoint keeps once the run is done.

    Args:
        run: The run's canonical JSON.
        model: Its model.
        sparsifier: What makes the model sparse, None for a dense one.
    """
    return {"run": run, "model": model.state_dict(), "sparsifier": sparsifier.state_dict() if sparsifier else None}


def write_weights(model: nn.Module, path: Path) -> None:
    """Writes every tensor of the model's state dict to a safetensors file, in one step.

    Tied tensors are all there, for `load_state_dict`; the file's metadata maps the name of each to the first one's, as
    safetensors' `save_model` does.

    Raises:
        WriteError: If the file cannot be written.
    """
    state = model.state_dict()
    first: dict[tuple[Any, ...], str] = {}
    places = {n: (t.data_ptr(), t.shape, t.stride()) for n, t in state.items() if t.numel()}
    tied = {name: first[place] for name, place in places.items() if first.setdefault(place, name) != name}
    memory = Counter(tensor.untyped_storage().data_ptr() for tensor in state.values())

    def own(tensor: Tensor) -> Tensor:  # safetensors refuses keys that share one memory
        return tensor.clone() if memory[tensor.untyped_storage().data_ptr()] > 1 else tensor

    tensors = {name: own(tensor).contiguous() for name, tensor in state.items()}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, tied))


def load_model(state: dict[str, Any], model: nn.Module, sparsifier: Sparsifier | None, path: Path) -> None:
    """Loads what `model_state` returned into the model and the sparsifier.

    Args:
        state: The checkpoint's content.
        model: The model, as it was made for the run.
        sparsifier: What makes the model sparse, None for a dense one.
        path: The checkpoint, for the error.

    Raises:
        ValueError: If the tensors do not fit the model.
    """
    if isinstance(model, Transformer):
        _check_vocabulary(state["model"], model, path)
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit its own description: {mismatch(error)}") from error
    if sparsifier:
        sparsifier.load_state_dict(state["sparsifier"])


def _check_vocabulary(tensors: dict[str, Tensor], model: Transformer, path: Path) -> None:
    """The vocabulary's size is not in a run's description: the data, or a file of the user, decides it."""
    embedding = tensors.get("embedding.weight")
    size = model.embedding.num_embeddings
    if embedding is not None and len(embedding) != size:
        raise ValueError(
            f"the vocabulary has {size} ids and that of the model in {path} had {len(embedding)}; give the one that "
            "the model was trained with"
        )


def training_state(optimizer: dict[str, Any], device: torch.device, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What resuming needs beside the `model_state`.

    Args:
        optimizer: The state of the optimizer.
        device: Where training runs; its random numbers are kept beside the CPU's.
        rows: The rows of metrics.jsonl so far.
    """
    rng = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        rng["cuda"] = torch.cuda.get_rng_state(device)
    return {"optimizer": optimizer, "rng": rng, "metrics": rows}


def owned(state: dict[str, Any]) -> dict[str, Any]:
    """The state with copies of the tensors that are rows of larger ones, all of which torch would save."""
    copies: dict[tuple[Any, ...], Tensor] = {}  # tied tensors stay one

    def own(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().nbytes() <= tensor.nbytes:
            return tensor
        place = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
        return copies[place] if place in copies else copies.setdefault(place, tensor.clone())

    found: dict[str, Any] = tree_map_only(Tensor, own, state)
    return found


def load_training(
    state: dict[str, Any], optimizer: torch.optim.Optimizer, device: torch.device
) -> list[dict[str, Any]]:
    """Restores what `training_state` kept, optimizer and random numbers, unless training is over; returns the rows."""
    rows: list[dict[str, Any]] = state["metrics"]
    if "optimizer" not in state:
        return rows
    optimizer.load_state_dict(state["optimizer"])
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                # A fleet's has its channels first. torch's fused optimizers look at the memory of both.
                kept[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    torch.set_rng_state(state["rng"]["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["rng"]["cuda"], device)
    return rows


def read_checkpoint(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    """The content of a checkpoint.pt.

    Args:
        path: The file.
        mapped: Leave the tensors unread.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated or foreign.
    """
    if not path.is_file():
        if is_run(path.parent):
            raise FileNotFoundError(f"no checkpoint {path}: the run diverged, failed or has just begun; give another")
        raise FileNotFoundError(f"no checkpoint {path}; give a run's directory or its checkpoint.pt")
    state = load_torch(path, mapped=mapped)
    if not isinstance(state, dict) or not state.keys() >= _KEYS:
        raise ValueError(f"{path} is not a checkpoint of a run; `openwork inspect` reads other files")
    return state


def is_checkpoint(path: Path) -> bool:
    """Whether ``path`` is a run's checkpoint.pt and no other file of tensors; the tensors are not read."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return False
    content = load_torch(path, mapped=True)
    return isinstance(content, dict) and content.keys() >= _KEYS


def mismatch(error: RuntimeError) -> str:
    """The first complaint of load_state_dict."""
    return str(error).splitlines()[1].strip()
