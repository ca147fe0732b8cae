"""How a GPU computes products of float32 numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch

Precision = Literal["float32", "tf32", "bf16"]
"""As they are; from 10 bits of their mantissa; from bfloat16 in a fleet's Linear layers and 10 bits elsewhere."""


@contextmanager
def products(precision: Precision) -> Iterator[None]:
    """Within it, torch computes products on a GPU in this precision; nothing changes on a CPU.

    Raises:
        ValueError: If there is no such precision.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be {', '.join(get_args(Precision))}, got {precision!r}; take one of these")
    before = torch.get_float32_matmul_precision()
    if precision != "float32":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
