"""How a GPU computes products of float32 numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch

Precision = Literal["float32", "tf32", "bf16"]
"""As they are; from 10 bits of their mantissa; from bfloat16 in a fleet's Linear layers and 10 bits elsewhere."""


def checked_precision(name: str) -> Precision:
    """The precision of that name.

    Raises:
        ValueError: If there is none.
    """
    for precision in get_args(Precision):
        if name == precision:
            return precision  # type: ignore[no-any-return]
    raise ValueError(f"precision must be float32, tf32 or bf16, got {name!r}")


@contextmanager
def products(precision: Precision) -> Iterator[None]:
    """Within it, torch computes products on a GPU in this precision; nothing changes on a CPU."""
    before = torch.get_float32_matmul_precision()
    if precision != "float32":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
