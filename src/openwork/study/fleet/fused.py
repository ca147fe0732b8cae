"""Linear layers of stacked models, trained by Adam without gradients of their weights in memory.

A backward pass keeps what a layer was given and the gradient of what it returned. The optimizer's step computes the
gradient of the weights from them while it moves the weights (`openwork.kernels.stacked`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from openwork.kernels.stacked import stacked_linear, stacked_linear_adam, stacked_linear_input
from openwork.study.fleet.adam import Adam
from openwork.study.fleet.stack import Stack

_NARROW = 32
"""Layers with fewer outputs return float32: the loss may be computed from them, and they cost little."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def fused_linears(
    stack: Stack, adam: Adam, *, precision: str, moments: torch.dtype = torch.float32
) -> "FusedLinears | None":
    """The layers of a stack that can be trained in this way; None if there are none.

    Where a technique needs gradients, or moves masked weights, there are none.

    Args:
        stack: The models.
        adam: What moves their parameters.
        precision: As `FusedLinears` takes it.
        moments: As `FusedLinears` takes it.
    """
    sparsifier = stack.lives[0].sparsifier
    if sparsifier and sparsifier.mechanism.needs_optimizer:
        return None
    found = FusedLinears(stack.each[0], stack.parameters, adam, precision=precision, moments=moments)
    return found if found.names else None


class FusedLinears:
    """The layers of stacked models that one operation each trains in place of the optimizers.

    What they learn is in the optimizers' states as ever.

    Args:
        model: The first of the models, which computes for all.
        parameters: Their parameters by name, (N, *shape).
        adam: What moves them.
        precision: Of the layers' products, one of `openwork.kernels.stacked.PRECISIONS`.
        moments: The dtype of the weights' moments, float32 or bfloat16.

    Attributes:
        names: The parameters that they train, those of each plain `torch.nn.Linear` of float32 which has them to
            itself, and whose optimizer is `torch.optim.Adam` without `amsgrad` or `maximize`.
        anchor: A tensor through which autograd comes to the layers, whose parameters need no gradient: ask for its
            gradient besides those of the other parameters, with ``allow_unused=True``. It is None.
        rounding: The dtype to which all that has parameters rounds its inputs; None if there is none.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, Tensor],
        adam: Adam,
        *,
        precision: str = "bf16",
        moments: torch.dtype = torch.float32,
    ) -> None:
        self._adam = adam
        found = _layers(model, adam)
        self.names = frozenset(chain.from_iterable(names for _, names in found))
        first = next(iter(parameters.values()))
        self.anchor = torch.zeros((), device=first.device, requires_grad=True)
        short = precision == "bf16" and self.names == parameters.keys()  # nothing else wants float32
        self.rounding = torch.bfloat16 if short else None
        self._layers = []
        for module, names in found:
            values = {name: parameters[name].detach() for name in names}
            kept = [adam.moments(n, each, moments if each.dim() > 2 else torch.float32) for n, each in values.items()]
            self._layers.append(_Layer(module, values, kept, precision, short=short))

    @contextmanager
    def training(self) -> Iterator[None]:
        """Within it, a forward pass of the stack under `torch.func.vmap` computes the layers so that `step` can follow.

        Take the gradients outside of vmap.
        """
        for layer in self._layers:
            layer.calls.clear()
            vars(layer.module)["forward"] = partial(_forward, layer, self.anchor)
        try:
            yield
        finally:
            for layer in self._layers:
                del vars(layer.module)["forward"]

    @torch.no_grad()
    def step(self) -> None:
        """Moves the parameters; the same operations on the device each time, so that a CUDA graph may hold them."""
        called = [layer for layer in self._layers if layer.calls]
        constants = self._adam.begin([name for layer in called for name in layer.names])
        for layer in called:
            layer.step(*constants[layer.names[0]])


class _Layer:
    """One layer of all models.

    Args:
        module: That of the first model.
        parameters: Weight (N, out, in) and, if there is one, bias (N, out), by name.
        moments: Those of each.
        precision: Of products.
        short: Whether results may be bfloat16.
    """

    def __init__(
        self,
        module: nn.Linear,
        parameters: Mapping[str, Tensor],
        moments: Sequence[tuple[Tensor, Tensor]],
        precision: str,
        *,
        short: bool,
    ) -> None:
        self.module, self.precision = module, precision
        self.names = [*parameters]
        self._trained: list[tuple[Any, Any, Any]] = [
            (value, *pair) for value, pair in zip(parameters.values(), moments, strict=True)
        ]
        self._trained += [(None, None, None)] * (2 - len(parameters))
        self.dtype = torch.bfloat16 if short and module.out_features >= _NARROW else torch.float32
        self.calls: list[tuple[Tensor, Tensor]] = []
        """What each call was given, (N, B, in) or (B, in), and the gradient of what it returned, (N, B, out)."""

    def step(self, scales: Tensor, *constants: float) -> None:
        """Moves the parameters; takes what `Adam.begin` returns of the weight."""
        xs, gradients = zip(*self.calls, strict=True)
        x, gradient = xs[0], gradients[0]
        if len(xs) > 1:
            x = torch.cat([each.expand(len(scales), *each.shape[-2:]) for each in xs], 1)
            gradient = torch.cat(gradients, 1)
        (weight, *of_weight), (bias, *of_bias) = self._trained
        operands = (weight, *of_weight, bias, *of_bias, x, gradient, None, scales)
        stacked_linear_adam(*operands, *constants, self.precision)


class _Linear(torch.autograd.Function):
    """A layer of all models at once; it comes to a backward pass by its anchor."""

    generate_vmap_rule = False

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, anchor: Tensor, layer: _Layer) -> Tensor:
        """(N, B, out)."""
        y: Tensor = stacked_linear(x, weight, bias, None, layer.precision, False, layer.dtype)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keeps what the backward pass needs."""
        x, weight, _, _, ctx.layer = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the input alone."""
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        ctx.layer.calls.append((x.detach(), gradient))
        found = None
        if ctx.needs_input_grad[0]:
            found = stacked_linear_input(gradient, weight, ctx.layer.precision, x.dtype)
        return found, None, None, None, None

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        """The same for stacked arguments."""
        x, *others = arguments
        place, members = dims[0], info.batch_size
        if place is not None:
            x = x.movedim(place, 0)
        elif x.requires_grad:  # its gradient is the sum over the models
            x, place = x.expand(members, *x.shape), 0
        first = 0 if place is None else 1
        each = x.shape[first:-1]
        y: Tensor = _apply(x.reshape(*x.shape[:first], each.numel(), x.shape[-1]), *others)
        shaped: Tensor = y.view(members, *each, y.shape[-1])
        return shaped, 0


def _forward(layer: _Layer, anchor: Tensor, x: Tensor) -> Tensor:
    y: Tensor = _apply(x, layer.module.weight, layer.module.bias, anchor, layer)
    return y


_apply: Any = _Linear.apply  # torch's stubs know no types of it


def _layers(model: nn.Module, adam: Adam) -> list[tuple[nn.Linear, list[str]]]:
    """The layers that can be fused, and the names of their parameters, the weight first."""
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    settings = adam.settings
    found = []
    for prefix, module in model.named_modules():
        own = {f"{prefix}.{name}".lstrip("."): parameter for name, parameter in module.named_parameters(recurse=False)}
        plain = type(module) is nn.Linear and not any(vars(module)[name] for name in _HOOKS)
        if not plain or not own.keys() <= settings.keys():
            continue
        names = sorted(own, key=lambda name: own[name].dim(), reverse=True)
        alike = all(settings[name] == settings[names[0]] for name in names)
        floats = all(parameter.dtype == torch.float32 and uses[id(parameter)] == 1 for parameter in own.values())
        if floats and alike and not adam.masked & set(names[1:]):
            found.append((module, names))
    return found
