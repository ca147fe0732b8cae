"""The weights that packed tensors stand for, with their zeros where they are.

Sizes come from files: each is checked against the tensors that are really there before anything of that size is made.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def from_bitmask(values: Tensor, bits: Tensor, shape: Tensor) -> Tensor:
    """The weight that compressed-tensors keeps as ``X.compressed``, ``X.bitmask`` and ``X.shape``.

    Args:
        values: The kept values in row order; of the 2:4 format in a matrix, zeros among them.
        bits: uint8 of shape (rows, ceil(columns / 8)): a bit for each weight, the lowest first.
        shape: The weight's shape.

    Raises:
        ValueError: If the three do not fit each other.
    """
    size = [int(n) for n in shape.flatten()]
    columns = size[-1] if size else 1
    if bits.dtype != torch.uint8 or min(size, default=0) < 0 or -(-columns // 8) != bits.shape[-1]:
        raise ValueError(f"bit mask {tuple(bits.shape)} does not fit shape {size}")
    if math.prod(size[:-1]) * bits.shape[-1] != bits.numel():
        raise ValueError(f"bit mask {tuple(bits.shape)} does not fit shape {size}")
    kept = _bits(bits)[..., :columns].reshape(size).contiguous()
    if int(kept.count_nonzero()) != values.numel():
        raise ValueError(
            f"bit mask keeps {int(kept.count_nonzero()):,} weights, and {values.numel():,} values are there"
        )
    weight = torch.zeros(size, dtype=values.dtype, device="cpu")
    # Not weight[kept] = values, which knows no 8-bit floating-point types.
    weight.view(-1)[kept.view(-1).nonzero().squeeze(1)] = values.flatten()
    return weight


def _bits(packed: Tensor) -> Tensor:
    """Bool of shape (..., 8 n) for bytes (..., n), the lowest bit first."""
    places = torch.arange(8, dtype=torch.uint8, device="cpu")
    return (packed.unsqueeze(-1).bitwise_right_shift(places) & 1).flatten(-2).bool()


def around_zero_point(codes: Tensor, zero_point: Tensor) -> Tensor:
    """int8 of the codes' shape: 0 where a code is the zero point, 1 elsewhere.

    Args:
        codes: Of shape (out, in, ...).
        zero_point: One number, one for each output, or (out, groups) for equal groups of inputs.

    Raises:
        ValueError: If the shapes do not fit.
    """
    point = zero_point.to(torch.int16)
    if point.dim() == 1 and point.numel() > 1:
        point = point.view(-1, *(1,) * (codes.dim() - 1))
    if point.dim() == codes.dim() == 2 and 1 < point.shape[1] < codes.shape[1]:
        if codes.shape[1] % point.shape[1]:
            raise ValueError(f"zero points {tuple(zero_point.shape)} do not fit codes {tuple(codes.shape)}")
        point = point.repeat_interleave(codes.shape[1] // point.shape[1], 1)
    try:
        return (codes.to(torch.int16) != point.expand(codes.shape)).to(torch.int8)
    except RuntimeError:
        raise ValueError(f"zero points {tuple(zero_point.shape)} do not fit codes {tuple(codes.shape)}") from None


def from_4_bits(codes: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
    """The weight of a 4-bit layer of bitsandbytes.

    Args:
        codes: uint8, two codes in each, the first in the high half.
        parts: The tensors beside it by the last part of their names: absmax, quant_map, quant_state.bitsandbytes__nf4.

    Raises:
        ValueError: If they do not fit each other.
    """
    settings: dict[str, Any] = json.loads(
        bytes(next(v for k, v in parts.items() if k.startswith("quant_state")).tolist())
    )
    shape, dtype = settings["shape"], getattr(torch, str(settings["dtype"]), None)
    count, halves = math.prod(shape), codes.flatten()
    if not isinstance(dtype, torch.dtype) or min(shape) < 0 or (count + 1) // 2 != halves.numel():
        raise ValueError(f"{halves.numel():,} bytes of 4-bit codes do not fit shape {shape}")
    levels = parts["quant_map"].float()
    indices = torch.stack([halves >> 4, halves & 15], 1).flatten()[:count].int()
    scales = parts["absmax"]
    if "nested_absmax" in parts:
        outer = parts["nested_absmax"].repeat_interleave(settings["nested_blocksize"])[: scales.numel()]
        scales = parts["nested_quant_map"][scales.int()] * outer + settings["nested_offset"]
    if settings["blocksize"] * (scales.numel() - 1) >= count:
        raise ValueError(f"{scales.numel():,} scales do not fit shape {shape}")
    return (levels[indices] * scales.repeat_interleave(settings["blocksize"])[:count]).view(shape).to(dtype)
