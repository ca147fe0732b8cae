"""A TensorFlow checkpoint as a state dict: names with dots, axes in torch's order, without what only training needs."""

import re
from pathlib import Path

from torch import Tensor

from openwork.formats.model_part import Checkpoint
from openwork.formats.tensorflow.bundle import Bundle

_OPTIMIZER = re.compile(r"Adam(_\d+)?|Momentum|Adagrad|RMSProp(_\d+)?|v[rc]?|m|beta\d_power(_\d+)?")
_PRUNING = {"threshold", "last_mask_update_step", "global_step"}
_LEAVES = {
    "kernel": "weight",
    "weights": "weight",
    "biases": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_RANDOM = re.compile(r"log_sigma2|log_alpha|weights_\d+_aux")


def is_optimizers(name: str) -> bool:
    """Whether a variable of this name is an optimizer's."""
    return _OPTIMIZER.fullmatch(name.rpartition("/")[2]) is not None


def read_state(prefix: Path) -> Checkpoint:
    """The tensors of a checkpoint, in which masks lie beside weights as in torch.

    Args:
        prefix: As `Bundle` takes it.

    Raises:
        FileNotFoundError: If a file of the checkpoint is missing.
        ValueError: If it is damaged.
    """
    bundle = Bundle(prefix)
    tensors: dict[str, Tensor] = {}
    left_out: list[str] = []
    for name in bundle.names:
        leaf = name.rpartition("/")[2]
        if is_optimizers(name) or leaf in _PRUNING or _RANDOM.fullmatch(leaf) or bundle.unreadable(name):
            left_out.append(name)
        else:
            key, tensor = _key(name, bundle.names), bundle.tensor(name)
            tensors[key if key not in tensors else name] = _torch_order(tensor) if _is_kernel(name) else tensor
    notes = ["a TensorFlow checkpoint: names and axes are torch's, (out, in) of a kernel (in, out)"]
    if any(_RANDOM.fullmatch(name.rpartition("/")[2]) for name in left_out):
        notes.append("weights are means; which of them are zero says openwork import-tf, with the technique")
    return Checkpoint(tensors, tuple(left_out), notes=tuple(notes))


def _key(name: str, names: list[str]) -> str:
    folder, _, leaf = name.rpartition("/")
    if leaf == "weights_0" and f"{folder}/weights_1" not in names:
        leaf = "weights"  # tensor2tensor's shared matrix, in one piece
    return f"{folder}/{_LEAVES.get(leaf, leaf)}".strip("/").replace("/", ".")


def _is_kernel(name: str) -> bool:
    leaf = name.rpartition("/")[2]
    return leaf in ("kernel", "weights", "mask") and "/shared/" not in f"/{name}"


def _torch_order(tensor: Tensor) -> Tensor:
    """(..., in, out) as (out, in, ...)."""
    return tensor.permute(tensor.dim() - 1, tensor.dim() - 2, *range(tensor.dim() - 2)) if tensor.dim() > 1 else tensor
