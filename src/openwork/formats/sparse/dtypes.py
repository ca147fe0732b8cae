"""The dtypes that a sparse file may hold: their names there, and the machine words that their elements consist of."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Dtype:
    """How the elements of a dtype lie in memory.

    Args:
        torch: The dtype.
        word: The bytes of a word: an element, or one of the two floats of a complex number.
        words: The words of an element.
        signed_zero: Whether a word of which the top bit alone is set is a zero, as in floats.
        plain: Whether every reader of safetensors files knows the dtype; otherwise it is always packed.
    """

    torch: torch.dtype
    word: int
    words: int = 1
    signed_zero: bool = False
    plain: bool = True


DTYPES = {
    "F64": Dtype(torch.float64, 8, signed_zero=True),
    "F32": Dtype(torch.float32, 4, signed_zero=True),
    "F16": Dtype(torch.float16, 2, signed_zero=True),
    "BF16": Dtype(torch.bfloat16, 2, signed_zero=True),
    "F8_E4M3": Dtype(torch.float8_e4m3fn, 1, signed_zero=True),
    "F8_E5M2": Dtype(torch.float8_e5m2, 1, signed_zero=True),
    "F8_E4M3FNUZ": Dtype(torch.float8_e4m3fnuz, 1, signed_zero=True, plain=False),
    "F8_E5M2FNUZ": Dtype(torch.float8_e5m2fnuz, 1, signed_zero=True, plain=False),
    "F8_E8M0": Dtype(torch.float8_e8m0fnu, 1, signed_zero=True, plain=False),  # it has no sign, but any code will do
    "C64": Dtype(torch.complex64, 4, words=2, signed_zero=True, plain=False),
    "C128": Dtype(torch.complex128, 8, words=2, signed_zero=True, plain=False),
    "I64": Dtype(torch.int64, 8),
    "I32": Dtype(torch.int32, 4),
    "I16": Dtype(torch.int16, 2),
    "I8": Dtype(torch.int8, 1),
    "U64": Dtype(torch.uint64, 8),
    "U32": Dtype(torch.uint32, 4),
    "U16": Dtype(torch.uint16, 2),
    "U8": Dtype(torch.uint8, 1),
    "BOOL": Dtype(torch.bool, 1),
}
NAMES = {dtype.torch: name for name, dtype in DTYPES.items()}
