"""Which tensors of a state are matrices and kernels of layers, as far as shapes and names tell without modules."""

import re
from collections.abc import Mapping

from torch import Tensor

_NORM = re.compile(r"(.*_)?((layer_?|batch_?|group_?|instance_?|rms_?)?norm|ln|bn|gn)(_\w+|\d+)?", re.IGNORECASE)
_POSITION = re.compile(
    r"(.*_)?(pos(ition(al)?)?_?(embed\w*|emb|enc\w*|bias\w*)|rel_pos\w*|tokens?)|relative_position\w*|pe"
)


def is_matrix(name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a tensor is a layer's matrix or kernel: two or more dimensions, and no bias, norm, position or scale.

    A norm over several dimensions has a bias of its weight's shape, which no other layer has. Tables of positions
    that are embeddings, whose name ends in ``weight``, count like other embeddings.

    Args:
        name: The tensor's name.
        tensor: The tensor.
        tensors: All tensors of the state by name.
    """
    module, _, leaf = name.rpartition(".")
    if tensor.dim() < 2 or leaf == "bias" or leaf.endswith("_bias"):
        return False
    bias = tensors.get(f"{module}.bias" if module else "bias")
    if leaf == "weight":
        if bias is not None:
            return bias.shape != tensor.shape
        return not (_NORM.fullmatch(module.rpartition(".")[2]))
    if _POSITION.fullmatch(leaf):
        return False
    is_vector = tensor.dim() > 2 and sum(n != 1 for n in tensor.shape) < 2
    return not is_vector
