"""How many bytes a tensor takes, dense and as its non-zero values."""

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Size:
    """Bytes of a tensor's values, without names and file headers; a tensor that is smaller dense counts dense.

    Args:
        dense: Every value.
        bitmask: One bit for each weight, and the non-zero values.
        entropy: n·H(sparsity) bits, and the non-zero values: no code of a random mask takes less. A file by `save` may, as
            it codes the values' exponents, too.
    """

    dense: int = 0
    bitmask: int = 0
    entropy: int = 0

    def __add__(self, other: "Size") -> "Size":
        return Size(self.dense + other.dense, self.bitmask + other.bitmask, self.entropy + other.entropy)


def size_of(tensor: Tensor, nonzero: int) -> Size:
    """The size of a tensor of which ``nonzero`` values are not zero."""
    n, itemsize = tensor.numel(), tensor.dtype.itemsize
    dense, values = n * itemsize, nonzero * itemsize
    p = nonzero / n if n else 0.0
    bits = -n * (p * math.log2(p) + (1 - p) * math.log2(1 - p)) if 0 < p < 1 else 0.0
    return Size(dense, min(dense, values + math.ceil(n / 8)), min(dense, values + math.ceil(bits / 8)))
