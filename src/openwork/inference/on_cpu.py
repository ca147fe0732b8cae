"""Sparse layers on a CPU by our own kernels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from openwork.inference.alternative import Alternative, Converted
from openwork.kernels import compiled, sparse


class SparseOnCPU:
    """Linear layers (torch's and transformers' Conv1D) by a sparse product of our own, in float32."""

    name = "sparse product"

    def misfit(self, layer: nn.Module, x: Tensor) -> str | None:
        """As `Alternative` declares it."""
        if not _is_linear(layer):
            return f"no kernel for {type(layer).__name__}"
        return _misfit(layer, x)

    def convert(self, layer: nn.Module) -> "SparseLinear":
        """As `Alternative` declares it."""
        return SparseLinear(layer)


ALTERNATIVES: tuple[Alternative, ...] = (SparseOnCPU(),)
"""What `accelerate` tries on a CPU, beside MKL's CSR."""


class _Packed(Converted):
    """A layer that holds its weight, a matrix of as many rows as outputs, packed.

    Args:
        weight: The matrix.
        bias: (rows,), or None.
        kind: The class of the layer.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, kind: type[nn.Module]) -> None:
        super().__init__()
        self.rows, self.width = weight.shape
        self.kind = kind
        for name, tensor in zip(("starts", "columns", "values"), sparse.pack(weight.detach()), strict=True):
            self.register_buffer(name, tensor)
        self.register_buffer("bias", None if bias is None else bias.detach())

    def matrix(self) -> Tensor:
        """The matrix that was packed."""
        return sparse.unpack(self.starts, self.columns, self.values, self.width)


class SparseLinear(_Packed):
    """What `SparseOnCPU` makes of a linear layer.

    Args:
        layer: The layer, which stays as it is.
    """

    def __init__(self, layer: nn.Module) -> None:
        weight, bias = layer.weight, layer.bias
        assert isinstance(weight, Tensor)
        assert bias is None or isinstance(bias, Tensor)
        super().__init__(weight if isinstance(layer, nn.Linear) else weight.t(), bias, type(layer))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return sparse.linear(x, self.starts, self.columns, self.values, self.bias, self.width)

    def dense(self) -> nn.Module:
        """The layer that was converted."""
        weight = self.matrix()
        if issubclass(self.kind, nn.Linear):
            layer: nn.Module = self.kind(self.width, self.rows, bias=self.bias is not None, device="meta")
        else:
            layer, weight = self.kind(self.rows, self.width), weight.t().contiguous()
        layer.weight = nn.Parameter(weight)
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias)
        return layer.eval()

    def extra_repr(self) -> str:
        """What is printed of it."""
        return f"{self.width}, {self.rows}, nonzeros={len(self.values)}"


def _is_linear(layer: nn.Module) -> bool:
    """Is it torch's Linear, or transformers' Conv1D, with the transposed weight? Subclasses may compute otherwise."""
    kind = type(layer)
    return kind is nn.Linear or (kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils")


def _misfit(layer: nn.Module, x: Tensor) -> str | None:
    tensors: Sequence[Tensor] = (x, *layer.parameters())
    if devices := sorted({tensor.device.type for tensor in tensors} - {"cpu"}):
        return f"the kernel computes on a CPU, not on {devices[0]}"
    if dtypes := {tensor.dtype for tensor in tensors} - {torch.float32}:
        return f"the kernel computes in float32, not in {dtypes.pop()}"
    return compiled.load()
