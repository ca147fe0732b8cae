"""What torch.compile is told about functions, without importing it: that takes as long as importing torch."""

from collections.abc import Callable
from typing import TypeVar

_Function = TypeVar("_Function", bound=Callable[..., object])


def constant(function: _Function) -> _Function:
    """Marks a function whose result is a constant for the compiler, as torch.compiler.assume_constant_result does."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]  # a test compares it with torch's own mark
    return function
