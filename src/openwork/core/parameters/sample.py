"""What reading a random weight gives: a tensor to compute with, which refuses to be written to.

What ``layer.weight`` returns is computed anew at each reading, so that a write to it would be lost. Methods that write
raise, also those of its views. What only C++ sees, as ``out=layer.weight``, is noticed when the sample is dropped.
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

# fmt: off
_VIEWS = [
    "detach", "view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "ravel", "contiguous", "squeeze",
    "unsqueeze", "expand", "expand_as", "transpose", "swapaxes", "swapdims", "t", "adjoint", "permute", "movedim",
    "moveaxis", "narrow", "select", "diagonal", "unfold", "as_strided", "unbind", "chunk", "split",
    "split_with_sizes", "tensor_split", "hsplit", "vsplit", "dsplit", "__getitem__", "__iter__",
]
# fmt: on
_TURNED = ("T", "mT", "H", "mH")
_OPERATORS = ["add", "and", "floordiv", "lshift", "mod", "mul", "or", "pow", "rshift", "sub", "truediv", "xor"]
_WRITES = [name for name in dir(Tensor) if name.endswith("_") and not name.startswith("_")]
_WRITES += ["__setitem__", *(f"__i{operator}__" for operator in _OPERATORS)]


class Sample(Tensor):
    """A read-only tensor, which like a Parameter leaves no trace in what is computed with it."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    _name: str
    _start: int

    def _refuse(self, *args: object, **kwargs: object) -> NoReturn:
        raise ValueError(_lost(self._name))

    @property
    def data(self) -> Tensor:
        """The values, as read-only as the sample."""
        return protected(super().data, self._name)

    @data.setter
    def data(self, values: object) -> None:
        self._refuse()

    def numpy(self, *, force: bool = False) -> np.ndarray[Any, Any]:
        """A read-only array."""
        array: np.ndarray[Any, Any] = super().numpy(force=force)
        array.setflags(write=False)
        return array

    def __reduce_ex__(self, protocol: Any) -> Any:
        """As a plain tensor."""
        return self.as_subclass(Tensor).__reduce_ex__(protocol)  # type: ignore[no-untyped-call]

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """A plain tensor."""
        return copy.deepcopy(self.as_subclass(Tensor), memo)

    def __del__(self) -> None:
        """Warns of writes that no method of this class has seen."""
        if _writes(self) != getattr(self, "_start", _writes(self)):
            warnings.warn(_lost(self._name), stacklevel=2)


def protected(values: Tensor, name: str) -> Sample:
    """The same values, read-only.

    Args:
        values: A tensor that is computed anew at each reading.
        name: The name of the parameter that stands behind it, for the error.
    """
    import torch._dynamo.config as compiler  # only now: it takes as long as importing torch

    # Given to a compiled function a sample breaks the graph; otherwise it would break the function.
    compiler.nontraceable_tensor_subclasses.add(Sample)
    sample = values.as_subclass(Sample)
    sample._name, sample._start = name, _writes(values)
    return sample


def _lost(name: str) -> str:
    return (
        f"{name} is a random variable, and reading it gives a sample, where a write is lost; write to its mean, "
        f"dict(model.named_parameters())[{name!r}]"
    )


def _writes(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _view(method: Callable[..., Any]) -> Callable[..., Any]:
    def view(self: Sample, *args: Any, **kwargs: Any) -> Any:
        plain = self.as_subclass(Tensor)
        found = method(plain, *args, **kwargs)
        if isinstance(found, Tensor):  # which may be a copy, such as that of a transposed weight's reshape
            shared = torch._C._is_alias_of(found, plain)  # type: ignore[attr-defined]
            return protected(found, self._name) if shared else found
        parts = [protected(part, self._name) for part in found]
        return iter(parts) if method is Tensor.__iter__ else type(found)(parts)

    return view


def _flag(name: str) -> property:
    """An attribute that can be read but not set."""
    return property(getattr(Tensor, name).__get__, Sample._refuse)


for name in _WRITES:
    setattr(Sample, name, Sample._refuse)
for name in _VIEWS:
    setattr(Sample, name, _view(getattr(Tensor, name)))
for name in _TURNED:
    setattr(Sample, name, property(_view(getattr(Tensor, name).__get__)))
for name in ("grad", "requires_grad"):
    setattr(Sample, name, _flag(name))
