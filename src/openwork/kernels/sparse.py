"""Products and convolutions with a sparse weight on a CPU: our C++ kernel, and its plain twin in torch.

A packed weight is a matrix (out, columns) in rows: where each row starts, and the columns and values of what is not
zero. What is left out is not multiplied: unlike in a dense product, a zero makes no NaN of an infinite or NaN input.
"""

import torch
from torch import Tensor

from openwork.kernels import compiled
from openwork.kernels.paths import Path


def path(device: torch.device, dtype: torch.dtype) -> Path:
    """The way of `linear` and `convolution`; on a CPU it compiles the kernels, where that has not been done."""
    if device.type != "cpu":
        return Path("plain", f"the kernel computes on a CPU, not on {device.type}")
    if reason := compiled.load():
        return Path("plain", reason)
    if dtype != torch.float32:
        return Path("none", "the kernel computes in float32 alone; autocast casts to it")
    return Path("compiled", f"C++ for {torch.backends.cpu.get_cpu_capability()}")


def pack(weight: Tensor, groups: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """(starts, columns, values) of a matrix (out, columns): int64 (out + 1,), int16 or int32, and the weight's dtype.

    An int16 has the bits of the uint16, which torch cannot pickle. Zeros of either sign are left out; NaN is a value.

    Args:
        weight: The matrix, or what is in its diagonal blocks: (out, columns / groups).
        groups: The number of these blocks, 1 for the whole matrix.
    """
    kept = weight != 0
    starts = torch.zeros(len(weight) + 1, dtype=torch.int64, device=weight.device)
    torch.cumsum(kept.sum(1), 0, out=starts[1:])
    rows, columns = kept.nonzero().unbind(1)
    columns = columns + _block(rows, len(weight), groups) * weight.shape[1]
    is_short = weight.shape[1] * groups <= 2**16
    return starts, columns.to(torch.uint16).view(torch.int16) if is_short else columns.int(), weight[kept]


def unpack(starts: Tensor, columns: Tensor, values: Tensor, width: int, groups: int = 1) -> Tensor:
    """The matrix (out, width) that `pack` took, all zeros being +0.

    Args:
        starts: As `pack` returns it.
        columns: As `pack` returns it.
        values: As `pack` returns it.
        width: The number of columns that `pack` was given.
        groups: As `pack` was given it.
    """
    weight = values.new_zeros(len(starts) - 1, width)
    rows, places = _indices(starts, columns)
    weight[rows, places - _block(rows, len(weight), groups) * width] = values
    return weight


def _block(rows: Tensor, count: int, groups: int) -> Tensor:
    return rows // max(count // groups, 1)


def _indices(starts: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of each value."""
    rows = torch.repeat_interleave(starts.diff(), output_size=len(columns))
    return rows, (columns.view(torch.uint16) if columns.dtype == torch.int16 else columns).long()


def linear(x: Tensor, starts: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None, inputs: int) -> Tensor:
    """``x @ weight.T + bias`` for a packed weight (out, in), by the kernel ``openwork::sparse_linear``.

    Args:
        x: (..., in) float32, of any strides.
        starts: As `pack` returns it.
        columns: As `pack` returns it.
        values: As `pack` returns it.
        bias: (out,), or None.
        inputs: in.
    """
    y: Tensor = torch.ops.openwork.sparse_linear.default(x, starts, columns, values, bias, inputs)
    return y


def plain_linear(
    x: Tensor, starts: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None, inputs: int
) -> Tensor:
    """The twin of `linear`: it computes the same with torch's own operations, slowly, on any device."""
    rows, places = _indices(starts, columns)
    flat = x.reshape(x.shape[:-1].numel(), inputs)
    y = x.new_zeros(len(flat), len(starts) - 1)
    y.index_add_(1, rows, flat[:, places] * values)
    if bias is not None:
        y += bias
    return y.reshape(*x.shape[:-1], len(starts) - 1)


def convolution(
    x: Tensor,
    starts: Tensor,
    columns: Tensor,
    values: Tensor,
    bias: Tensor | None,
    channels: int,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    """A convolution with a packed weight, by the kernel ``openwork::sparse_convolution``.

    Args:
        x: (N, C, H, W) float32, of any strides.
        starts: As `pack` returns it of a matrix (out, C * KH * KW). Groups are zeros of it.
        columns: As `pack` returns it.
        values: As `pack` returns it.
        bias: (out,), or None.
        channels: C.
        kernel: KH, KW.
        stride: Of rows and columns, as the next two.
        padding: Zeros on both sides.
        dilation: From tap to tap.
    """
    y: Tensor = torch.ops.openwork.sparse_convolution.default(
        x, starts, columns, values, bias, channels, kernel, stride, padding, dilation
    )
    return y


def plain_convolution(
    x: Tensor,
    starts: Tensor,
    columns: Tensor,
    values: Tensor,
    bias: Tensor | None,
    channels: int,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    """The twin of `convolution`: the same by the dense operation, on any device."""
    weight = unpack(starts, columns, values, channels * kernel[0] * kernel[1]).view(-1, channels, *kernel)
    return torch.nn.functional.conv2d(x, weight, bias, stride, padding, dilation)


torch.library.define(
    "openwork::sparse_linear",
    "(Tensor x, Tensor starts, Tensor columns, Tensor values, Tensor? bias, int inputs) -> Tensor",
)


@torch.library.impl("openwork::sparse_linear", "CompositeExplicitAutograd")
def _linear_until_loaded(
    x: Tensor, starts: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None, inputs: int
) -> Tensor:
    # Runs where no library has registered a kernel: on a CPU once, or always where nothing compiles it, and for sparse
    # inputs, which `nn.Linear` takes.
    other = plain_linear if path(x.device, x.dtype).name == "plain" else linear
    return other(x.to_dense(), starts, columns, values, bias, inputs)


def _linear_shape(
    x: Tensor, starts: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None, inputs: int
) -> Tensor:
    return x.new_empty(*x.shape[:-1], starts.shape[0] - 1)


torch.library.register_fake("openwork::sparse_linear", _linear_shape)
torch.library.register_autocast(
    "openwork::sparse_linear", "cpu", torch.float32
)  # what comes from other layers is short


torch.library.define(
    "openwork::sparse_convolution",
    "(Tensor x, Tensor starts, Tensor columns, Tensor values, Tensor? bias, int channels, int[] kernel, int[] stride, "
    "int[] padding, int[] dilation) -> Tensor",
)


@torch.library.impl("openwork::sparse_convolution", "CompositeExplicitAutograd")
def _convolution_until_loaded(
    x: Tensor,
    starts: Tensor,
    columns: Tensor,
    values: Tensor,
    bias: Tensor | None,
    channels: int,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    other = plain_convolution if path(x.device, x.dtype).name == "plain" else convolution
    return other(x, starts, columns, values, bias, channels, kernel, stride, padding, dilation)


def _convolution_shape(
    x: Tensor,
    starts: Tensor,
    columns: Tensor,
    values: Tensor,
    bias: Tensor | None,
    channels: int,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    sizes = [
        (size + 2 * pad - step * (taps - 1) - 1) // by + 1
        for size, pad, step, taps, by in zip(x.shape[2:], padding, dilation, kernel, stride, strict=True)
    ]
    return x.new_empty(x.shape[0], starts.shape[0] - 1, *sizes)


torch.library.register_fake("openwork::sparse_convolution", _convolution_shape)
torch.library.register_autocast("openwork::sparse_convolution", "cpu", torch.float32)
