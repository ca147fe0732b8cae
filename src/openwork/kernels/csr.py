"""A sparse matrix product by the CSR kernel of the library that torch is built with (MKL on x86)."""

import warnings

import torch
from torch import Tensor

from openwork.kernels.paths import Path


def path(device: torch.device, dtype: torch.dtype) -> Path:
    """The way of `linear`."""
    if device.type != "cpu":
        return Path("none", f"the operation is for CPUs, not for {device.type}")
    if not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        return Path("plain", "this torch is built without MKL")
    if dtype not in (torch.float32, torch.float64):
        return Path("none", "MKL computes in float32 and float64 alone; autocast casts to float32")
    return Path("MKL", "torch is built with it")


def pack(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(row starts, columns, values) of a matrix (out, in); int32 indices, which MKL takes as they are."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        packed = weight.to_sparse_csr()
    # Copies: torch.compile reads no views of a sparse tensor.
    return packed.crow_indices().int(), packed.col_indices().int(), packed.values().clone()


def unpack(rows: Tensor, columns: Tensor, values: Tensor, inputs: int) -> Tensor:
    """The matrix (out, in) that `pack` took, where no value is a stored zero."""
    return _matrix(rows, columns, values, inputs).to_dense()


def linear(x: Tensor, rows: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None, inputs: int) -> Tensor:
    """``x @ weight.T + bias`` for a packed weight (out, in).

    Args:
        x: (..., in).
        rows: (out + 1,) int32, where each row begins.
        columns: (non-zeros,) int32.
        values: (non-zeros,) of x's dtype.
        bias: (out,), or None.
        inputs: in.

    Raises:
        ValueError: If x has another width or dtype, or the values are neither float32 nor float64.
    """
    y: Tensor = torch.ops.openwork.csr_linear.default(x, rows, columns, values, bias, inputs)
    return y


# `torch.library.custom_op` takes 12 µs a call, this 4: small layers take no longer themselves.
torch.library.define(
    "openwork::csr_linear",
    "(Tensor x, Tensor rows, Tensor columns, Tensor values, Tensor? bias, int inputs) -> Tensor",
)


@torch.library.impl("openwork::csr_linear", "CPU")
def _linear(x: Tensor, rows: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None, inputs: int) -> Tensor:
    if x.shape[-1:] != (inputs,) or x.dtype != values.dtype:  # MKL reads behind the end of a shorter one
        raise ValueError(f"the input must be {values.dtype} of shape (..., {inputs}), got {x.dtype} {tuple(x.shape)}")
    if values.dtype not in (torch.float32, torch.float64):  # somebody has converted the model
        raise ValueError(
            f"the packed weight is {values.dtype}, and the kernel computes in float32; convert dense_copy() of what "
            "accelerate returned instead, and accelerate that"
        )
    weight = _matrix(rows, columns, values, inputs)
    flat = x.reshape(x.shape[:-1].numel(), inputs)
    # MKL's product with a vector is several times faster than that with a matrix of one column.
    y = torch.mv(weight, flat[0]).unsqueeze(0) if len(flat) == 1 else (weight @ flat.t()).t()
    y = y.reshape(*x.shape[:-1], weight.shape[0])
    return (y if bias is None else y + bias).contiguous()


def _shape(x: Tensor, rows: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None, inputs: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], rows.shape[0] - 1)


torch.library.register_fake("openwork::csr_linear", _shape)
# Under autocast, what comes from other layers is of a shorter dtype.
torch.library.register_autocast("openwork::csr_linear", "cpu", torch.float32)


def _matrix(rows: Tensor, columns: Tensor, values: Tensor, inputs: int) -> Tensor:
    size = (len(rows) - 1, inputs)
    return torch.sparse_csr_tensor(rows, columns, values, size, check_invariants=False)
