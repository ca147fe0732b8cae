"""The divergence of variational dropout's weights in Triton: one launch for all, which finds them by a table."""

import math
from collections.abc import Sequence
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from openwork.kernels.divergence import EPS, K1, K2, K3
from openwork.kernels.triton.launching import device_of
from openwork.kernels.triton.tables import begins, lasting

_CHUNK = 1024  # elements of a program: with four times as many a thread takes so many registers that few warps fit
_WARPS = 4
_PIECE = 16_384  # elements of a program of `_scale`, which mostly has nothing to do
_STEP = 2048
_UNIT = 32  # elements at whose multiples gradients begin


def divergence(
    thetas: Sequence[Tensor], log_sigma2s: Sequence[Tensor], clip: float, scale: Tensor, sloped: bool
) -> tuple[Tensor, list[Tensor]]:
    """(scale * KL; its gradients by the means and then by log sigma^2, which share their memory).

    Args:
        thetas: float32; each fills its memory.
        log_sigma2s: float32, each laid out like its mean.
        clip: log alpha is clipped to [-clip, clip], up to `openwork.kernels.divergence.WIDEST`.
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
                table, chunks, scale, gradients, parts, total, math.exp(-clip), math.exp(clip),
                EPS=EPS, K1=K1, K2=K2, K3=K3, UNIT=_UNIT, CHUNK=_CHUNK, SLOPED=sloped,
                ALIGNED=all(address % 16 == 0 for pair in addresses for address in pair), num_warps=_WARPS,
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
        programs = triton.cdiv(max(1, len(whole)), _PIECE)
        _scale[(programs,)](whole, factor, len(whole), PIECE=_PIECE, STEP=_STEP, num_warps=8)


@cache  # for good: replays of CUDA graphs read it
def _table(rows: tuple[tuple[int, int, int, int], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """(addresses of mean and log sigma^2, size, start) of each weight, and (weight, first element) of each program."""
    chunks = [(number, first) for number, row in enumerate(rows) for first in range(0, row[2], _CHUNK)]
    parts = (
        torch.tensor(rows, dtype=torch.int64, device="cpu"),
        torch.tensor(chunks, dtype=torch.int32, device="cpu").view(-1, 2),
    )
    table, programs = lasting(parts, device)
    return table, programs


@triton.jit
def _divergence(
    table_ptr, chunks_ptr, scale_ptr, gradients_ptr, parts_ptr, total, low, high,
    EPS: tl.constexpr, K1: tl.constexpr, K2: tl.constexpr, K3: tl.constexpr,
    UNIT: tl.constexpr, CHUNK: tl.constexpr, SLOPED: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    number = tl.load(chunks_ptr + 2 * tl.program_id(0))
    first = tl.multiple_of(tl.load(chunks_ptr + 2 * tl.program_id(0) + 1), 16)
    row = table_ptr + 4 * number
    theta_ptr = tl.load(row).to(tl.pointer_type(tl.float32))
    log_sigma2_ptr = tl.load(row + 1).to(tl.pointer_type(tl.float32))
    if ALIGNED:
        theta_ptr, log_sigma2_ptr = tl.multiple_of(theta_ptr, 16), tl.multiple_of(log_sigma2_ptr, 16)
    size, scale = tl.load(row + 2), tl.load(scale_ptr)
    at = first + tl.arange(0, CHUNK)
    of_theta_ptr = gradients_ptr + tl.multiple_of(tl.load(row + 3), 16) + at
    of_log_sigma2_ptr = of_theta_ptr + total
    if first + CHUNK <= size:  # without comparisons the compiler moves 16 bytes at once
        theta, log_sigma2 = tl.load(theta_ptr + at), tl.load(log_sigma2_ptr + at)
        value, of_theta, of_log_sigma2 = _of_each(theta, log_sigma2, scale, low, high, EPS, K1, K2, K3, SLOPED)
        tl.store(parts_ptr + tl.program_id(0), tl.sum(value))
        if SLOPED:
            tl.store(of_theta_ptr, of_theta)
            tl.store(of_log_sigma2_ptr, of_log_sigma2)
    else:
        there = at < size
        theta, log_sigma2 = tl.load(theta_ptr + at, mask=there), tl.load(log_sigma2_ptr + at, mask=there)
        value, of_theta, of_log_sigma2 = _of_each(theta, log_sigma2, scale, low, high, EPS, K1, K2, K3, SLOPED)
        tl.store(parts_ptr + tl.program_id(0), tl.sum(tl.where(there, value, 0.0)))
        if SLOPED:  # between weights lie zeros, which `scale` multiplies as well
            filled = at < tl.cdiv(size, UNIT) * UNIT
            tl.store(of_theta_ptr, tl.where(there, of_theta, 0.0), mask=filled)
            tl.store(of_log_sigma2_ptr, tl.where(there, of_log_sigma2, 0.0), mask=filled)


@triton.jit
def _of_each(
    theta, log_sigma2, scale, low, high, EPS: tl.constexpr, K1: tl.constexpr, K2: tl.constexpr, K3: tl.constexpr,
    SLOPED: tl.constexpr,
):  # fmt: skip
    """The divergence of each weight, and scale times its derivatives by mean and log sigma^2.

    All is computed from 1 / alpha, which needs no logarithm. The square of `rsqrt`, one instruction, is a quotient.
    """
    theta2 = theta * theta + EPS
    raw = theta2 * tl.exp2(-1.4426950408889634 * log_sigma2)
    inverse = tl.minimum(tl.maximum(raw, low, tl.PropagateNan.ALL), high, tl.PropagateNan.ALL)
    fit = tl.rsqrt(1.0 + tl.exp2(K2 * 1.4426950408889634 - K3 * log2(inverse)))
    fit *= fit  # sigmoid(-k2 - k3 log alpha)
    value = K1 * fit + 0.34657359027997264 * log2(1.0 + inverse)  # half of the natural logarithm
    if not SLOPED:
        return value, value, value
    tail = tl.rsqrt(1.0 + inverse)
    slope = K1 * K3 * (fit * fit - fit) - 0.5 * inverse * (tail * tail)
    slope = tl.where((raw > low) & (raw < high), slope * scale, 0.0)
    part = tl.rsqrt(theta2)
    return value, -2.0 * slope * theta * (part * part), slope


@triton.jit
def log2(x):
    """The logarithm of a positive x, not subnormal, to 2e-7, and exact for 1: exponent and a fit of the mantissa."""
    bits = x.to(tl.int32, bitcast=True)
    rest = ((bits & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True) - 1.0
    found = -0.012319479137659073 * rest + 0.06360803544521332
    found = found * rest - 0.15535227954387665
    found = found * rest + 0.25601017475128174
    found = found * rest - 0.3533950448036194
    found = found * rest + 0.4800637364387512
    found = found * rest - 0.7213100790977478
    found = found * rest + 1.4426947832107544
    return found * rest + ((bits >> 23) - 127).to(tl.float32)


@triton.jit
def _scale(x_ptr, factor_ptr, size, PIECE: tl.constexpr, STEP: tl.constexpr):
    factor = tl.load(factor_ptr)
    if factor != 1.0:
        for first in range(0, PIECE, STEP):
            at = tl.program_id(0).to(tl.int64) * PIECE + first + tl.arange(0, STEP)
            tl.store(x_ptr + at, tl.load(x_ptr + at, mask=at < size) * factor, mask=at < size)
