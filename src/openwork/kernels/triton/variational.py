"""The noise of variational dropout in Triton."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from openwork.kernels.triton.launching import device_of
from openwork.kernels.triton.noise import hashed, normal24
from openwork.kernels.variational import EPS

_TILE = 4096  # elements of a program


@triton_op("openwork::noisy", mutates_args=())
def noisy(
    mean: Tensor, variance: Tensor, factor: Tensor, offset: Tensor, shared: bool, sloped: bool
) -> tuple[Tensor, Tensor]:
    """(mean + sqrt(variance + eps) * noise, its derivative by the variance), read and written once.

    Args:
        mean: Of any shape.
        variance: Of the same shape and dtype.
        factor: This and the next are those of `openwork.noise.Draw`.
        offset: See there.
        shared: Whether all positions of an example share their noise: of shape (N, 1, ..., 1, C) then.
        sloped: Whether the derivative is wanted; otherwise it has no elements.
    """
    mean, rows, columns, positions = _as_matrix(mean, shared)
    variance = _like(variance, mean)
    y = torch.empty_like(mean)
    slope = torch.empty_like(mean) if sloped else mean.new_empty(0)
    if mean.numel():
        width = min(triton.next_power_of_2(columns), 256 if rows > 1 else _TILE)
        height = min(triton.next_power_of_2(rows), _TILE // width)
        with device_of(mean):
            _launched(_noisy)[(triton.cdiv(rows, height) * triton.cdiv(columns, width),)](
                mean, variance, factor, offset, y, slope, rows, columns, positions,
                EPS=EPS, SHARED=shared, SLOPED=sloped, HEIGHT=height, WIDTH=width, num_warps=8,
            )  # fmt: skip
    return y, slope


def _as_matrix(x: Tensor, shared: bool) -> tuple[Tensor, int, int, int]:
    """The tensor in one piece, the rows and columns of what lies there, and how many positions an example has."""
    if shared:
        x = x.contiguous()
        positions = x.shape[1:-1].numel()
        return x, x.shape[0] * positions, x.shape[-1], positions
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    if last is None or x.is_contiguous() or not x.is_contiguous(memory_format=last):
        x = x.contiguous()
        return x, 1, x.numel(), 1
    positions = x.shape[2:].numel()
    return x, x.shape[0] * positions, x.shape[1], positions


def _like(x: Tensor, other: Tensor) -> Tensor:
    """The tensor as the other one lies in memory."""
    return x if x.stride() == other.stride() else torch.empty_like(other).copy_(x)


def _launched(kernel: Any) -> Any:
    """The kernel as a compiler sees it; the interpreter's functions are none."""
    return wrap_triton(kernel) if isinstance(kernel, triton.JITFunction) else kernel


@triton.jit
def _noisy(
    mean_ptr, variance_ptr, factor_ptr, offset_ptr, y_ptr, slope_ptr, rows, columns, positions,
    EPS: tl.constexpr, SHARED: tl.constexpr, SLOPED: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    across = tl.cdiv(columns, WIDTH)
    row = (tl.program_id(0) // across * HEIGHT + tl.arange(0, HEIGHT))[:, None]
    column = (tl.program_id(0) % across * WIDTH + tl.arange(0, WIDTH))[None, :]
    there = (row < rows) & (column < columns)
    at = row.to(tl.int64) * columns + column
    if SHARED:
        place = row // positions * columns + column
    else:  # as in a contiguous tensor, wherever the channels lie
        place = row // positions * (columns * positions) + row % positions + column * positions
    noise = normal24(hashed(place, tl.load(factor_ptr), tl.load(offset_ptr)))
    mean = tl.load(mean_ptr + at, mask=there, other=0).to(tl.float32)
    variance = tl.load(variance_ptr + at, mask=there, other=0).to(tl.float32) + EPS
    scaled = noise * tl.rsqrt(variance)
    tl.store(y_ptr + at, (mean + variance * scaled).to(y_ptr.dtype.element_ty), mask=there)
    if SLOPED:
        tl.store(slope_ptr + at, (0.5 * scaled).to(slope_ptr.dtype.element_ty), mask=there)
