"""A matrix of which two of every four weights are zero, by the hardware's own product (cuSPARSELt, or CUTLASS)."""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.sparse import (
    SparseSemiStructuredTensor,
    SparseSemiStructuredTensorCUSPARSELT,
    SparseSemiStructuredTensorCUTLASS,
)

from openwork.kernels.paths import OLDEST, Path, capability

_COLUMNS = 8  # what the number of columns must be a multiple of


def path(device: torch.device, dtype: torch.dtype) -> Path:
    """The way of `semi_structured_linear`."""
    if device.type != "cuda":
        return Path("none", f"the product is the hardware's of a GPU, not of {device.type}")
    found = capability(device)
    if isinstance(found, str):
        return Path("none", found)
    if found < OLDEST:
        return Path("none", f"2:4 needs compute capability 8.0 or higher, not {found[0]}.{found[1]}")
    if dtype not in (torch.float16, torch.bfloat16):
        return Path("none", "2:4 is computed in bfloat16 and float16 alone")
    if has_cusparselt():
        return Path("cuSPARSELt", "torch is built with it")
    if found >= (9, 0):
        return Path(
            "none", "torch is built without cuSPARSELt, and CUTLASS computes 2:4 on compute capability 8.x alone"
        )
    return Path("CUTLASS", "torch is built without cuSPARSELt")


def has_cusparselt() -> bool:
    """Whether torch brings cuSPARSELt; otherwise it has CUTLASS's product, which Hopper GPUs do not know."""
    return bool(torch.backends.cusparselt.is_available())


def multiples() -> tuple[int, int]:
    """What outputs and inputs must be multiples of, in 16-bit types."""
    return (16, 16) if has_cusparselt() else (32, 64)


def groups_with_more(weight: Tensor) -> int:
    """How many groups of four along a row of (out, in) have more than two non-zeros."""
    return int(((weight != 0).reshape(len(weight), -1, 4).sum(2) > 2).sum())


def pack(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(packed, meta) of a matrix (out, in) on a GPU; meta is empty where the packed tensor holds it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The PyTorch API of SparseSemiStructuredTensor is in prototype", UserWarning)
        kind = SparseSemiStructuredTensorCUSPARSELT if has_cusparselt() else SparseSemiStructuredTensorCUTLASS
        made = kind.from_dense(weight.contiguous())
    assert made.packed is not None
    return made.packed, weight.new_empty(0) if made.meta is None else made.meta


def unpack(packed: Tensor, meta: Tensor, outputs: int, inputs: int) -> Tensor:
    """The matrix (out, in) that `pack` took, but for the sign of zeros; its weights must be finite."""
    weight: Tensor = _matrix(packed, meta, outputs, inputs).to_dense()  # type: ignore[no-untyped-call]
    return weight


@torch.library.custom_op("openwork::semi_structured_linear", mutates_args=())
def semi_structured_linear(x: Tensor, packed: Tensor, meta: Tensor, bias: Tensor | None, outputs: int) -> Tensor:
    """``x @ weight.T + bias`` for a packed weight (out, in); its outputs lie column by column, as they are computed.

    Args:
        x: (..., in), of the weight's dtype.
        packed: As `pack` gives it.
        meta: Likewise.
        bias: (out,), or None.
        outputs: How many.
    """
    flat = x.reshape(-1, x.shape[-1])
    missing = -len(flat) % _COLUMNS
    padded = F.pad(flat, (0, 0, 0, missing)) if missing else flat  # F.pad copies where nothing is missing, too
    # Not F.linear: some releases then let the product transpose its outputs, which takes it longer.
    y: Tensor = _matrix(packed, meta, outputs, x.shape[-1])._mm(padded.t(), bias=bias)
    return y[:, : len(flat)].t().reshape(*x.shape[:-1], outputs)


@semi_structured_linear.register_fake
def _(x: Tensor, packed: Tensor, meta: Tensor, bias: Tensor | None, outputs: int) -> Tensor:
    count = x.numel() // x.shape[-1]
    y = x.new_empty(outputs, -(-count // _COLUMNS) * _COLUMNS)
    return y[:, :count].t().reshape(*x.shape[:-1], outputs)


def _matrix(packed: Tensor, meta: Tensor, outputs: int, inputs: int) -> SparseSemiStructuredTensor:
    kind = SparseSemiStructuredTensorCUTLASS if meta.numel() else SparseSemiStructuredTensorCUSPARSELT
    shape = torch.Size((outputs, inputs))
    return kind(shape, packed, meta if meta.numel() else None, None, None, None)
