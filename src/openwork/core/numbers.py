"""Which parameters hold the numbers that a layer computes with, and which hold codes for them."""

import torch
from torch import Tensor, nn

from openwork.core.sharded import is_sharded, local

_FUNCTIONS = (Tensor.__torch_function__.__func__, nn.Parameter.__torch_function__)  # type: ignore[attr-defined]
_QUANTISED = ("quant_state", "SCB")  # bitsandbytes' parameters; their data may be of any dtype


def not_numbers(parameter: Tensor) -> str:
    """Why the elements of a parameter are not its values, so that a small one need not be near zero; "" if they are.

    Args:
        parameter: A parameter; of a DTensor the local tensor decides.
    """
    tensor = local(parameter) if is_sharded(parameter) else parameter
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_quantized or not (tensor.is_floating_point() or tensor.is_complex()):
        return f"it holds {dtype} codes, not numbers; sparsify the model before it is quantised"
    if tensor.dtype.itemsize < 2:
        return f"it holds {dtype} codes, whose scale is elsewhere; sparsify the model before it is quantised"
    kind = type(tensor)
    function = getattr(kind.__torch_function__, "__func__", kind.__torch_function__)
    own = function not in _FUNCTIONS or kind.__torch_dispatch__ is not Tensor.__torch_dispatch__
    if own or any(hasattr(tensor, name) for name in _QUANTISED):
        return f"it is a {kind.__name__}, which need not hold its values; sparsify the model before it is quantised"
    if tensor.layout != torch.strided:
        return f"it is stored as {str(tensor.layout).removeprefix('torch.')}; make it dense"
    return ""


def unusable(parameter: Tensor) -> str:
    """Why nothing of a parameter can be made zero: `not_numbers`, or it has no elements; "" where something can."""
    return not_numbers(parameter) or ("" if parameter.numel() else "it has no weights")
