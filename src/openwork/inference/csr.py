"""Linear layers by torch's own CSR kernel, where no kernel of ours can be compiled."""

import torch
from torch import Tensor, nn

from openwork.inference.linear import ConvertedLinear, is_linear, matrix_of
from openwork.kernels import csr


class CSR:
    """Linear layers (torch's and transformers' Conv1D) by the CSR product of MKL, on a CPU in float32 or float64."""

    name = "MKL CSR"

    def misfit(self, layer: nn.Module, x: Tensor) -> str | None:
        """As `Alternative` declares it."""
        if not is_linear(layer):
            return f"no kernel for {type(layer).__name__}"
        weight = matrix_of(layer)
        if weight.device.type != "cpu" or not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
            return "MKL computes on x86 CPUs alone"
        if weight.dtype not in (torch.float32, torch.float64) or x.dtype != weight.dtype:
            return f"MKL computes in float32 and float64, not in {weight.dtype} with inputs in {x.dtype}"
        return None

    def convert(self, layer: nn.Module) -> "CSRLinear":
        """As `Alternative` declares it."""
        return CSRLinear(layer)


class CSRLinear(ConvertedLinear):
    """What `CSR` makes of a linear layer.

    Args:
        layer: The layer, which stays as it is.
    """

    rows: Tensor
    columns: Tensor
    values: Tensor

    def __init__(self, layer: nn.Module) -> None:
        rows, columns, values = csr.pack(matrix_of(layer))
        super().__init__(layer, {"rows": rows, "columns": columns, "values": values})

    def product(self, x: Tensor) -> Tensor:
        """As `ConvertedLinear` declares it."""
        return csr.linear(x, self.rows, self.columns, self.values, self.bias, self.inputs)

    def matrix(self) -> Tensor:
        """The matrix that was packed."""
        return csr.unpack(self.rows, self.columns, self.values, self.inputs)
