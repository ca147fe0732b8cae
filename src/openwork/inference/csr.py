"""Linear layers by torch's own CSR kernel, where no kernel of ours can be compiled."""

import torch
from torch import Tensor, nn

from openwork.inference.alternative import Converted
from openwork.kernels import csr


class CSR:
    """`nn.Linear` by the CSR product of MKL, on a CPU in float32 or float64."""

    name = "MKL CSR"

    def misfit(self, layer: nn.Module, x: Tensor) -> str | None:
        """As `Alternative` declares it."""
        if type(layer) is not nn.Linear:
            return f"no kernel for {type(layer).__name__}"
        weight = layer.weight
        if weight.device.type != "cpu" or not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
            return "MKL computes on x86 CPUs alone"
        if weight.dtype not in (torch.float32, torch.float64) or x.dtype != weight.dtype:
            return f"MKL computes in float32 and float64, not in {weight.dtype} with inputs in {x.dtype}"
        return None

    def convert(self, layer: nn.Module) -> "CSRLinear":
        """As `Alternative` declares it."""
        assert isinstance(layer, nn.Linear)
        return CSRLinear(layer)


class CSRLinear(Converted):
    """What `CSR` makes of a Linear.

    Args:
        layer: The layer, which stays as it is.
    """

    rows: Tensor
    columns: Tensor
    values: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.inputs, self.outputs = layer.in_features, layer.out_features
        rows, columns, values = csr.pack(layer.weight.detach())
        for name, tensor in (("rows", rows), ("columns", columns), ("values", values)):
            self.register_buffer(name, tensor)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return csr.linear(x, self.rows, self.columns, self.values, self.bias, self.inputs)

    def dense(self) -> nn.Linear:
        """The layer that was converted."""
        layer = nn.Linear(self.inputs, self.outputs, bias=self.bias is not None, device="meta")
        layer.weight = nn.Parameter(csr.unpack(self.rows, self.columns, self.values, self.inputs))
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias)
        return layer.eval()
