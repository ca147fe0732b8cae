"""Sparse layers on a CPU by our own kernels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from openwork.core.converted import Converted
from openwork.inference.alternative import Alternative
from openwork.inference.linear import ConvertedLinear, is_linear, matrix_of
from openwork.inference.no_gradient import without_gradient
from openwork.kernels import compiled, sparse


class SparseOnCPU:
    """Linear layers (torch's and transformers' Conv1D) by a sparse product of our own, in float32."""

    name = "sparse product"

    def misfit(self, layer: nn.Module, x: Tensor) -> str | None:
        """As `Alternative` declares it."""
        if not is_linear(layer):
            return f"no kernel for {type(layer).__name__}"
        return _misfit(layer, x)

    def convert(self, layer: nn.Module) -> "SparseLinear":
        """As `Alternative` declares it."""
        return SparseLinear(layer)


class SparseConvolutionOnCPU:
    """`nn.Conv2d` and `nn.Conv1d` by a sparse convolution of our own, in float32: any stride, dilation and groups."""

    name = "sparse convolution"

    def misfit(self, layer: nn.Module, x: Tensor) -> str | None:
        """As `Alternative` declares it."""
        if type(layer) is not nn.Conv2d and type(layer) is not nn.Conv1d:
            return f"no kernel for {type(layer).__name__}"
        if layer.padding_mode != "zeros":
            return f"the kernel pads with zeros, not with padding_mode={layer.padding_mode!r}"
        if layer.padding == "same" and any(
            step * (taps - 1) % 2 for step, taps in zip(layer.dilation, layer.kernel_size, strict=True)
        ):
            return "padding='same' of an even kernel is not the same on both sides"
        return _misfit(layer, x)

    def convert(self, layer: nn.Module) -> "SparseConvolution":
        """As `Alternative` declares it."""
        assert isinstance(layer, nn.Conv2d | nn.Conv1d)
        return SparseConvolution(layer)


ALTERNATIVES: tuple[Alternative, ...] = (SparseOnCPU(), SparseConvolutionOnCPU())
"""What `accelerate` tries on a CPU, beside MKL's CSR."""


class SparseLinear(ConvertedLinear):
    """What `SparseOnCPU` makes of a linear layer.

    Args:
        layer: The layer, which stays as it is.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor

    def __init__(self, layer: nn.Module) -> None:
        starts, columns, values = sparse.pack(matrix_of(layer))
        super().__init__(layer, {"starts": starts, "columns": columns, "values": values})

    def product(self, x: Tensor) -> Tensor:
        """As `ConvertedLinear` declares it."""
        return sparse.linear(x, self.starts, self.columns, self.values, self.bias, self.inputs)

    def matrix(self) -> Tensor:
        """The matrix that was packed."""
        return sparse.unpack(self.starts, self.columns, self.values, self.inputs)


class SparseConvolution(Converted):
    """What `SparseConvolutionOnCPU` makes of a convolution.

    Args:
        layer: The layer, which stays as it is.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Conv2d | nn.Conv1d) -> None:
        super().__init__()
        weight = layer.weight.detach().flatten(1)
        for name, tensor in zip(("starts", "columns", "values"), sparse.pack(weight, layer.groups), strict=True):
            self.register_buffer(name, tensor)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())
        self.kind = type(layer)
        self.settings = {
            name: getattr(layer, name)
            for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
        }
        padding = layer.padding
        if isinstance(padding, str):
            taps = zip(layer.dilation, layer.kernel_size, strict=True)
            padding = tuple(step * (count - 1) // 2 if padding == "same" else 0 for step, count in taps)
        # Over one dimension it is a convolution of an image of one row.
        missing = 2 - len(padding)
        self.kernel, self.stride, self.dilation = (
            [1] * missing + list(setting) for setting in (layer.kernel_size, layer.stride, layer.dilation)
        )
        self.padding = [0] * missing + list(padding)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), (N, C, L), or one without N, to the same with the outputs."""
        return without_gradient(self._convolve, x)

    def _convolve(self, x: Tensor) -> Tensor:
        in_rows = issubclass(self.kind, nn.Conv1d)
        is_batch = x.dim() == 4 - in_rows
        image = x if is_batch else x.unsqueeze(0)
        y = sparse.convolution(
            image.unsqueeze(2) if in_rows else image,
            self.starts,
            self.columns,
            self.values,
            self.bias,
            self.settings["in_channels"],
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
        )
        y = y.squeeze(2) if in_rows else y
        return y if is_batch else y.squeeze(0)

    def dense(self) -> nn.Module:
        """The layer that was converted."""
        layer: nn.Module = self.kind(**self.settings, bias=self.bias is not None, device="meta")
        assert isinstance(layer, nn.Conv2d | nn.Conv1d)
        shape, groups = layer.weight.shape, layer.groups
        weight = sparse.unpack(self.starts, self.columns, self.values, shape[1:].numel(), groups)
        layer.weight = nn.Parameter(weight.view(shape))
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias)
        return layer.eval()

    def extra_repr(self) -> str:
        """What is printed of it."""
        settings = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        return f"{settings}, nonzeros={len(self.values)}"


def _misfit(layer: nn.Module, x: Tensor) -> str | None:
    tensors: Sequence[Tensor] = (x, *layer.parameters())
    if devices := sorted({tensor.device.type for tensor in tensors} - {"cpu"}):
        return f"the kernel computes on a CPU, not on {devices[0]}"
    if dtypes := {tensor.dtype for tensor in tensors} - {torch.float32}:
        return f"the kernel computes in float32, not in {dtypes.pop()}"
    return compiled.load()
