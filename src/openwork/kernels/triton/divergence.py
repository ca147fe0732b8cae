"""The divergence of variational dropout's weights in Triton: one launch for all, which finds them by a table."""

from collections.abc import Sequence
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from openwork.kernels.divergence import EPS, K1, K2, K3
from openwork.kernels.triton.launching import device_of
from openwork.kernels.triton.tables import begins, lasting

_CHUNK = 4096  # elements of a program
_UNIT = 32  # elements at whose multiples gradients begin


def divergence(
    thetas: Sequence[Tensor], log_sigma2s: Sequence[Tensor], clip: float, scale: Tensor, sloped: bool
) -> tuple[Tensor, list[Tensor]]:
    """(scale * KL; its gradients by the means and then by log sigma^2, which share their memory).

    Args:
        thetas: float32; each fills its memory.
        log_sigma2s: float32, each laid out like its mean.
        clip: log alpha is clipped to [-clip, clip].
        scale: Of shape ().
        sloped: Whether gradients are wanted; otherwise there are none.
    """
    device = thetas[0].device
    sizes = [theta.numel() for theta in thetas]
    starts, total = begins(sizes, _UNIT)
    addresses = [
        (theta.data_ptr(), log_sigma2.data_ptr()) for theta, log_sigma2 in zip(thetas, log_sigma2s, strict=True)
    ]
    rows = tuple((*pair, size, start) for pair, size, start in zip(addresses, sizes, starts, strict=True))
    table, chunks = _table(rows, device)
    gradients = torch.empty(2, total if sloped else 0, device=device)
    parts = torch.empty(len(chunks), device=device)
    if len(chunks):
        with device_of(gradients):
            _divergence[(len(chunks),)](
                table, chunks, scale, gradients, parts, total, clip,
                EPS=EPS, K1=K1, K2=K2, K3=K3, UNIT=_UNIT, CHUNK=_CHUNK, SLOPED=sloped,
                ALIGNED=all(address % 16 == 0 for pair in addresses for address in pair), num_warps=8,
            )  # fmt: skip
    value = parts.sum() * scale
    if not sloped:
        return value, []
    return value, [
        gradients[half].narrow(0, start, size).as_strided(theta.shape, theta.stride())
        for half in range(2)
        for theta, size, start in zip(thetas, sizes, starts, strict=True)
    ]


def scale(gradients: Sequence[Tensor], factor: Tensor) -> None:
    """Multiplies the gradients of `divergence` in place, without reading them where the factor is 1.

    Args:
        gradients: As `divergence` returns them.
        factor: Of shape ().
    """
    whole = gradients[0].new_empty(0).set_(gradients[0].untyped_storage())
    with device_of(whole):
        _scale[(triton.cdiv(max(1, len(whole)), _CHUNK),)](whole, factor, len(whole), CHUNK=_CHUNK, num_warps=8)


@cache  # for good: replays of CUDA graphs read it
def _table(rows: tuple[tuple[int, int, int, int], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """(addresses of mean and log sigma^2, size, start) of each weight, and (weight, first element) of each program."""
    chunks = [(number, first) for number, row in enumerate(rows) for first in range(0, row[2], _CHUNK)]
    parts = torch.tensor(rows, dtype=torch.int64), torch.tensor(chunks, dtype=torch.int32).view(-1, 2)
    table, programs = lasting(parts, device)
    return table, programs


@triton.jit
def _divergence(
    table_ptr, chunks_ptr, scale_ptr, gradients_ptr, parts_ptr, total, clip,
    EPS: tl.constexpr, K1: tl.constexpr, K2: tl.constexpr, K3: tl.constexpr,
    UNIT: tl.constexpr, CHUNK: tl.constexpr, SLOPED: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    number = tl.load(chunks_ptr + 2 * tl.program_id(0))
    first = tl.load(chunks_ptr + 2 * tl.program_id(0) + 1)
    row = table_ptr + 4 * number
    theta_ptr = tl.load(row).to(tl.pointer_type(tl.float32))
    log_sigma2_ptr = tl.load(row + 1).to(tl.pointer_type(tl.float32))
    if ALIGNED:
        theta_ptr, log_sigma2_ptr = tl.multiple_of(theta_ptr, 16), tl.multiple_of(log_sigma2_ptr, 16)
    at = tl.multiple_of(first, 16) + tl.arange(0, CHUNK)
    size = tl.load(row + 2)
    there = at < size
    theta = tl.load(theta_ptr + at, mask=there, other=1)
    theta2 = theta * theta + EPS
    raw = tl.load(log_sigma2_ptr + at, mask=there, other=0) - tl.log(theta2)
    log_alpha = tl.minimum(tl.maximum(raw, -clip), clip)
    fit = tl.sigmoid(-K2 - K3 * log_alpha)
    small = tl.exp(-tl.abs(log_alpha))
    more = 1.0 + small  # log(1 + small) as Kahan computes it
    tail = tl.maximum(-log_alpha, 0.0) + tl.where(more == 1.0, small, tl.log(more) * small / (more - 1.0))
    tl.store(parts_ptr + tl.program_id(0), tl.sum(tl.where(there, K1 * fit + 0.5 * tail, 0.0)))
    if SLOPED:
        slope = -(K1 * K3) * fit * (1.0 - fit) - 0.5 * tl.sigmoid(-log_alpha)
        slope = tl.where(tl.abs(raw) < clip, slope, 0.0) * tl.load(scale_ptr)
        start = tl.multiple_of(tl.load(row + 3), 16)
        slope = tl.where(there, slope, 0.0)  # between weights lie zeros, which `scale` multiplies as well
        filled = at < tl.cdiv(size, UNIT) * UNIT
        tl.store(gradients_ptr + start + at, -2.0 * slope * theta / theta2, mask=filled)
        tl.store(gradients_ptr + total + start + at, slope, mask=filled)


@triton.jit
def _scale(x_ptr, factor_ptr, size, CHUNK: tl.constexpr):
    factor = tl.load(factor_ptr)
    if factor != 1.0:
        at = tl.program_id(0).to(tl.int64) * CHUNK + tl.arange(0, CHUNK)
        there = at < size
        tl.store(x_ptr + at, tl.load(x_ptr + at, mask=there) * factor, mask=there)
