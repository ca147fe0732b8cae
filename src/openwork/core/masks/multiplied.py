"""The inputs of matrices that a module picks from one parameter, as those of experts: seen where they are multiplied.

A module of experts gets all tokens, and each expert multiplies those that a router chose for it. So it is not the
module whose inputs count, but the operations: ``linear(x, weight[3])``, a product with all matrices at once, or one
with a row of ``x`` for each of the matrices ``weight[numbers]``.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from openwork.core.selection import Weight

Show = Callable[[Weight, int, Tensor], None]
"""(weight, number of its matrix, rows (n, in)) -> None."""

_PRODUCTS = {"matmul", "mm", "bmm", "__matmul__"}
_ADDED = {"addmm", "baddbmm"}
_GROUPED = {"_grouped_mm", "grouped_mm", "grouped_mm_fallback"}


class Multiplied(TorchFunctionMode):
    """Shows what operations multiply with matrices of these weights, while it is entered.

    Args:
        weights: Weights that hold several matrices, whose layout is known.
        show: What to do with the rows.
    """

    def __init__(self, weights: Sequence[Weight], show: Show) -> None:
        super().__init__()
        self.show = show
        self.weights = list(weights)
        self.picked: list[tuple[weakref.ref[Tensor], Weight, Tensor]] = []  # copies of matrices, and their numbers

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        with torch._C.DisableTorchFunction(), torch.no_grad():
            if name == "__getitem__" or name == "index_select":
                self._pick(args, found)
            for x, matrices, ends in _factors(name, args, kwargs):
                self._look(x.detach(), matrices.detach(), ends)
        return found

    def _pick(self, args: Any, found: Any) -> None:
        """Remembers a copy of some matrices: ``weight[numbers]``."""
        numbers = args[-1]
        if isinstance(found, Tensor) and isinstance(numbers, Tensor) and numbers.dim() == 1:
            owner = self._owner(args[0]) if isinstance(args[0], Tensor) else None
            if owner is not None and numbers.dtype != torch.bool and found.dim() == args[0].dim():
                self.picked = [each for each in self.picked if each[0]() is not None]
                self.picked.append((weakref.ref(found), owner, numbers))

    def _look(self, x: Tensor, matrices: Tensor, ends: Tensor | None) -> None:
        """Shows the rows of x (..., n, in) that are multiplied with (..., in, out)."""
        for copy, picked, numbers in self.picked:
            if (of := copy()) is not None and _inside(matrices, of) and len(x) == len(numbers):
                for number in torch.unique(numbers).tolist():
                    self._show(picked, number, x[numbers == number].reshape(-1, x.shape[-1]))
                return
        if (weight := self._owner(matrices)) is None or not _along_inputs(matrices, weight):
            return
        if matrices.dim() == 2:
            size = weight.parameter.numel() // _count(weight)
            number = (matrices.storage_offset() - weight.parameter.storage_offset()) // size
            self._show(weight, number, x.reshape(-1, x.shape[-1]))
        elif ends is not None:  # x lies in one piece, and these are the ends of its parts
            for number, rows in enumerate(torch.tensor_split(x, ends.tolist())[: _count(weight)]):
                self._show(weight, number, rows)
        elif x.dim() <= 3:
            for number, rows in enumerate(x.expand(len(matrices), *x.shape[-2:])):
                self._show(weight, number, rows)

    def _show(self, weight: Weight, number: int, rows: Tensor) -> None:
        """Shows rows of one matrix, without places that stay empty where all matrices have as many."""
        rows = rows[(rows != 0).any(1)]
        if len(rows):
            self.show(weight, number, rows)

    def _owner(self, tensor: Tensor) -> Weight | None:
        """The weight in whose memory the tensor lies."""
        return next((weight for weight in self.weights if _inside(tensor, weight.parameter)), None)


def _factors(name: str, args: Any, kwargs: Any) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """The pairs of x (..., n, in) and (..., in, out) that an operation may multiply, and where x's groups end."""
    if name == "linear":
        given = dict(zip(("input", "weight"), args, strict=False)) | kwargs
        yield given["input"], given["weight"].mT, None
    elif name in _GROUPED:
        yield args[0], args[1], kwargs["offs"] if "offs" in kwargs else args[2]
    elif name in _PRODUCTS or name in _ADDED:
        first, second = args[-2:]
        if isinstance(first, Tensor) and isinstance(second, Tensor) and min(first.dim(), second.dim()) >= 2:
            yield first, second, None
            yield second.mT, first.mT, None


def _inside(tensor: Tensor, other: Tensor) -> bool:
    """Whether the tensor lies in the other's memory."""
    if tensor.device != other.device or not tensor.numel():
        return False
    begin = other.data_ptr()
    return begin <= tensor.data_ptr() < begin + other.numel() * other.element_size()


def _along_inputs(matrices: Tensor, weight: Weight) -> bool:
    """Whether the axis that a product sums over is the inputs'."""
    layout = weight.layout
    assert layout is not None
    inputs = layout.matrices(weight.parameter.detach()).stride(2)
    return matrices.shape[-2] == layout.shape[2] and matrices.stride(-2) == inputs


def _count(weight: Weight) -> int:
    layout = weight.layout
    assert layout is not None
    return layout.shape[0]
