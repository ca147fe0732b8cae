"""Sparse layers on a GPU: any zeros by packed products of our own, two zeros of four by the hardware's."""

import importlib.util

import torch
from torch import Tensor, nn

from openwork.inference.alternative import Alternative
from openwork.inference.linear import ConvertedLinear, is_linear, matrix_of
from openwork.kernels import lanes, semi_structured


class PackedOnGPU:
    """Linear layers (torch's and transformers' Conv1D) by packed products in Triton, for few rows of inputs.

    With more rows than `openwork.kernels.lanes.MOST_COLUMNS`, such as a long prompt, the converted layer unpacks its
    weight for the moment and computes a dense product: right, and slower than a dense layer.
    """

    name = "packed product"

    def misfit(self, layer: nn.Module, x: Tensor) -> str | None:
        """As `Alternative` declares it."""
        if problem := _misfit(layer, x, (torch.float16, torch.bfloat16, torch.float32)):
            return problem
        if importlib.util.find_spec("triton") is None:
            return "the kernel needs Triton, which `pip install triton` brings"
        return None

    def convert(self, layer: nn.Module) -> "PackedLinear":
        """As `Alternative` declares it."""
        return PackedLinear(layer)


class SemiStructuredOnGPU:
    """Linear layers with two zeros in every four weights of a row, by the sparse tensor cores."""

    name = "2:4"

    def misfit(self, layer: nn.Module, x: Tensor) -> str | None:
        """As `Alternative` declares it."""
        if problem := _misfit(layer, x, (torch.float16, torch.bfloat16)):
            return problem
        weight = matrix_of(layer)
        if not semi_structured.has_cusparselt() and torch.cuda.get_device_capability(weight.device) >= (9, 0):
            return "torch is built without cuSPARSELt, and CUTLASS computes 2:4 on GPUs of compute capability 8.x alone"
        outputs, inputs = semi_structured.multiples()
        if weight.shape[0] % outputs or weight.shape[1] % inputs:
            wanted = f"outputs a multiple of {outputs} and inputs of {inputs}"
            return f"2:4 wants {wanted}, not {weight.shape[0]} and {weight.shape[1]}"
        if more := semi_structured.groups_with_more(weight):
            return f"not 2:4: {more} of {weight.numel() // 4} groups of four weights have more than two non-zeros"
        return None if bool(weight.isfinite().all()) else "2:4 wants finite weights"

    def convert(self, layer: nn.Module) -> "SemiStructuredLinear":
        """As `Alternative` declares it."""
        return SemiStructuredLinear(layer)


ALTERNATIVES: tuple[Alternative, ...] = (PackedOnGPU(), SemiStructuredOnGPU())
"""What `accelerate` tries on a GPU."""


class PackedLinear(ConvertedLinear):
    """What `PackedOnGPU` makes of a linear layer.

    Args:
        layer: The layer, which stays as it is.
    """

    offsets: Tensor
    order: Tensor
    starts: Tensor
    gaps: Tensor
    values: Tensor

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer, lanes.pack(matrix_of(layer))._asdict())

    def product(self, x: Tensor) -> Tensor:
        """As `ConvertedLinear` declares it."""
        _check(self, x)
        y: Tensor = lanes.lanes_linear(x, self.offsets, self.order, self.starts, self.gaps, self.values, self.bias)
        return y

    def matrix(self) -> Tensor:
        """The matrix that was packed."""
        return lanes.unpack(self.offsets, self.order, self.starts, self.gaps, self.values, self.inputs)


class SemiStructuredLinear(ConvertedLinear):
    """What `SemiStructuredOnGPU` makes of a linear layer.

    Args:
        layer: The layer, which stays as it is.
    """

    packed: Tensor
    meta: Tensor

    def __init__(self, layer: nn.Module) -> None:
        packed, meta = semi_structured.pack(matrix_of(layer))
        super().__init__(layer, {"packed": packed, "meta": meta})

    def product(self, x: Tensor) -> Tensor:
        """As `ConvertedLinear` declares it."""
        _check(self, x)
        y: Tensor = semi_structured.semi_structured_linear(x, self.packed, self.meta, self.bias, self.outputs)
        return y

    def matrix(self) -> Tensor:
        """The matrix that was packed."""
        return semi_structured.unpack(self.packed, self.meta, self.outputs, self.inputs)


def _check(layer: ConvertedLinear, x: Tensor) -> None:
    if x.shape[-1] != layer.inputs:  # the kernels would read behind its end
        raise ValueError(f"the input must have the shape (..., {layer.inputs}), got {tuple(x.shape)}")


def _misfit(layer: nn.Module, x: Tensor, dtypes: tuple[torch.dtype, ...]) -> str | None:
    if not is_linear(layer):
        return f"no kernel for {type(layer).__name__}"
    tensors = (x, *layer.parameters())
    if devices := sorted({tensor.device.type for tensor in tensors} - {"cuda"}):
        return f"the kernel computes on a GPU, not on {devices[0]}"
    weight = matrix_of(layer)
    if weight.dtype not in dtypes or {tensor.dtype for tensor in tensors} != {weight.dtype}:
        found = " and ".join(sorted({str(tensor.dtype) for tensor in tensors}))
        return f"the kernel computes in {' or '.join(map(str, dtypes))} alone, not in {found}"
    if (capability := torch.cuda.get_device_capability(weight.device)) < (8, 0):
        return f"the kernel needs NVIDIA's compute capability 8.0 or higher, not {capability[0]}.{capability[1]}"
    return None if weight.numel() else "the weight is empty"
