"""What models hold, and whether two give the same outputs."""

import math
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""How much outputs may differ, as a fraction of the largest dense output: kernels sum in other orders."""


def bytes_of(model: nn.Module) -> int:
    """What parameters and buffers hold, tied ones once."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.nbytes for tensor in tensors.values())


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors in a model's output, of dataclasses too; complex numbers as pairs."""
    found = []
    for leaf in tree_leaves(output):
        if is_dataclass(leaf) and not isinstance(leaf, type):
            found += tensors_of(vars(leaf))
        elif isinstance(leaf, Tensor):
            found.append(torch.view_as_real(leaf) if leaf.is_complex() else leaf)
    return found


def difference(dense: list[Tensor], other: list[Tensor]) -> tuple[float, str]:
    """The largest relative difference of outputs, and why it is too large; "" where it is not.

    Args:
        dense: What `tensors_of` found in the outputs of a model.
        other: The same of the other model.
    """
    shapes = [[(tensor.shape, tensor.dtype) for tensor in tensors] for tensors in (dense, other)]
    if shapes[0] != shapes[1]:
        return math.inf, "outputs of the model have other shapes or types"
    apart = [relative_difference(a, b) for a, b in zip(dense, other, strict=True)]
    far = max(apart, default=0.0)
    fits = all(one <= TOLERANCES.get(a.dtype, 0.0) for one, a in zip(apart, dense, strict=True))
    return far, "" if fits else f"outputs of the model differ by {far:.1g}"


def relative_difference(dense: Tensor, other: Tensor) -> float:
    """The largest difference as a fraction of the largest finite number in ``dense``; inf where one alone is NaN."""
    if not dense.numel():
        return 0.0
    wide = dense.double(), other.double()
    same = (wide[0] == wide[1]) | (wide[0].isnan() & wide[1].isnan())
    apart = torch.where(same, 0.0, (wide[0] - wide[1]).abs())
    largest = wide[0].abs().nan_to_num(0.0, 0.0, 0.0).max().clamp(min=torch.finfo(torch.float32).tiny)
    return float((apart / largest).nan_to_num(math.inf, math.inf).max())
