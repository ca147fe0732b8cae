"""Floating-point operations of one forward pass, attributed to the weights that they use.

Convention: that of `torch.utils.flop_counter.FlopCounterMode`, which does the counting. A multiply-add is 2 FLOPs;
matrix products and convolutions count, padding included; biases, norms, activations and look-ups do not. Papers that
print "FLOPs" often mean multiply-adds: half of these. The sparse figure multiplies each product by the fraction of
non-zeros of its weight: what a perfect sparse kernel would compute, simulated, not executed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from openwork.core.forward import call, copied, plain_attention
from openwork.core.snapshot import same_generators, snapshot

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

CONVENTION = (
    "multiply-add = 2 FLOPs, as torch.utils.flop_counter; matrix products and convolutions of one forward pass for the "
    "whole example; sparse = dense x fraction of non-zeros, simulated"
)
# Copies of a weight, which stand for it: autocast casts, kernels ask for contiguous memory.
_COPIES = {"aten._to_copy", "aten.clone", "aten.contiguous"}
# They read a matrix without multiplying inputs by it: look-ups, norms, normalised weights.
_READS = {
    "aten.embedding",
    "aten.embedding_renorm_",
    "aten._embedding_bag",
    "aten.index_select",
    "aten.index",
    "aten.gather",
    "aten.native_layer_norm",
    "aten._weight_norm_interface",
    "aten.copy_",
}
_CHEAP = {torch.Tag.pointwise, getattr(torch.Tag, "reduction", torch.Tag.pointwise)}  # not in every torch


@dataclass(frozen=True)
class Flops:
    """What `count_flops` counted, for the whole example."""

    weights: dict[str, tuple[int, int]]
    """First name of a parameter -> (dense, sparse), summed over all its uses."""
    other: dict[str, int]
    """Products without a weight, by operator: attention scores. They are dense in both totals."""
    uncounted: dict[str, str]
    """Weight -> the operator without a formula that uses it: its FLOPs are missing from the totals."""

    @property
    def dense(self) -> int:
        """All FLOPs: what FlopCounterMode reports."""
        return sum(dense for dense, _ in self.weights.values()) + sum(self.other.values())

    @property
    def sparse(self) -> int:
        """All FLOPs but the products with zero weights."""
        return sum(sparse for _, sparse in self.weights.values()) + sum(self.other.values())


def count_flops(model: nn.Module, example: Any) -> Flops:
    """The FLOPs of ``model(example)`` in evaluation mode.

    Plain kernels replace fused attention and LSTM kernels meanwhile, as the counter does not see those. What the model
    raises for the example is passed on.

    Args:
        model: Any module; it is afterwards as it was, and so are the example and torch's generators.
        example: Its input: a tuple holds several arguments, a mapping keyword arguments.
    """
    from torch.utils.flop_counter import FlopCounterMode  # not before it is called: it looks for Triton

    restore, taken = snapshot(model), copied(example)
    counter = FlopCounterMode(display=False)
    attribution = _Attribution(model, counter)
    try:
        model.eval()
        with same_generators(model), torch.no_grad(), _plain_kernels(), counter, attribution:
            call(model, taken)
    finally:
        restore()
    sparse = {name: round(total) for name, total in attribution.sparse.items()}
    weights = {name: (total, sparse[name]) for name, total in attribution.dense.items()}
    return Flops(weights, attribution.other, attribution.uncounted)


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Without the fused kernels for attention and recurrent layers, for which FlopCounterMode has no formula."""
    onednn, cudnn = torch.backends.mkldnn, torch.backends.cudnn
    before = bool(onednn.enabled), cudnn.enabled
    try:
        # Not the flags() context managers, which warn without an Intel GPU.
        onednn.enabled = False  # type: ignore[assignment]  # a descriptor
        cudnn.enabled = False
        with plain_attention(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        onednn.enabled, cudnn.enabled = before  # type: ignore[assignment]  # a descriptor


class _Attribution(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own gap
    """Gives the FLOPs that ``counter``, entered before it, counts during each operator to that operator's weight."""

    def __init__(self, model: nn.Module, counter: "FlopCounterMode") -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own gap
        self.counter = counter
        self.dense: dict[str, int] = {}
        self.sparse: dict[str, float] = {}
        self.other: dict[str, int] = {}
        self.uncounted: dict[str, str] = {}
        self.places: dict[int, list[tuple[int, int, str]]] = {}
        self.copies: list[Tensor] = []  # kept alive, so that no other tensor gets their memory meanwhile
        self.densities: dict[tuple[Any, ...], float] = {}
        for name, parameter in model.named_parameters():
            if parameter.layout == torch.strided:
                self._remember(parameter, name)

    def _remember(self, tensor: Tensor, name: str) -> None:
        begin = int(tensor.storage_offset())
        place = (begin, begin + tensor.numel(), name)
        self.places.setdefault(tensor.untyped_storage().data_ptr(), []).append(place)

    def _name(self, tensor: Tensor) -> str | None:
        """The parameter that the tensor is a view or a copy of."""
        if tensor.layout != torch.strided:
            return None
        for begin, end, name in self.places.get(tensor.untyped_storage().data_ptr(), ()):
            if begin <= tensor.storage_offset() < end:
                return name
        return None

    def _density(self, weight: Tensor) -> float:
        key = (weight.untyped_storage().data_ptr(), weight.storage_offset(), weight.shape)
        if key not in self.densities:
            self.densities[key] = int(weight.count_nonzero()) / max(weight.numel(), 1)
        return self.densities[key]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before = self.counter.get_total_flops()
        result = func(*args, **(kwargs or {}))
        counted = self.counter.get_total_flops() - before
        operator = str(func.overloadpacket)
        found = [(a, self._name(a)) for a in _tensors(args)]
        # A bias is a parameter too: the weight is a matrix.
        weights = [(tensor, name) for tensor, name in found if name and tensor.dim() > 1]
        if counted and weights:
            tensor, name = weights[-1]
            self.dense[name] = self.dense.get(name, 0) + counted
            self.sparse[name] = self.sparse.get(name, 0.0) + counted * self._density(tensor)
        elif counted:
            self.other[operator] = self.other.get(operator, 0) + counted
        elif weights and (operator in _COPIES or _is_masked(operator, result, weights[0][0])):
            self._remember(result, weights[0][1])
            self.copies.append(result)
        elif weights and not _is_harmless(func, operator):
            self.uncounted |= {name: operator for _, name in weights}
        return result


def _tensors(args: tuple[Any, ...]) -> list[Tensor]:
    flat = [a for arg in args for a in (arg if isinstance(arg, list | tuple) else (arg,))]
    return [a for a in flat if isinstance(a, Tensor)]


def _is_masked(operator: str, result: Any, weight: Tensor) -> bool:
    """Whether the result is a weight times its mask, as torch.nn.utils.prune and parametrizations compute it."""
    return operator == "aten.mul" and isinstance(result, Tensor) and result.shape == weight.shape


def _is_harmless(func: Callable[..., Any], operator: str) -> bool:
    """Whether an operator multiplies no inputs by the weight: views, look-ups, elementwise ones, sums."""
    return operator in _READS or getattr(func, "is_view", False) or not _CHEAP.isdisjoint(getattr(func, "tags", ()))
