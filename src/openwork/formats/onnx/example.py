"""The example that a model is exported with, and its copies of other sizes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from openwork.core.forward import arguments_of, copied


@dataclass(frozen=True)
class Example:
    """The arguments of a forward, and which axes of its tensors may vary.

    Args:
        arguments: By position.
        keywords: By name.
        dynamic: The names of the axes that may vary, by axis.
    """

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    dynamic: Mapping[int, str]

    @classmethod
    def of(cls, example: Any, dynamic: Mapping[int, str]) -> "Example":
        """The example that a user gives: a tuple holds several arguments, a mapping keyword arguments.

        Raises:
            ValueError: If it holds no tensor, an empty one, or none with an axis of ``dynamic``, or if an axis or its
                name is impossible.
        """
        made = cls(*arguments_of(example), dict(dynamic))
        tensors = made.tensors
        if not tensors:
            raise ValueError("the example holds no tensor; give an input of the model, or a tuple or dict of them")
        for axis, name in dynamic.items():
            if type(axis) is not int or not 0 <= axis < max(tensor.dim() for tensor in tensors):
                raise ValueError(f"dynamic has the axis {axis!r}, which no input has; count axes from 0")
            if not isinstance(name, str) or not name.isidentifier():
                raise ValueError(f"dynamic has the name {name!r}; give one such as 'batch'")
        if len(set(dynamic.values())) < len(dynamic):
            raise ValueError(f"dynamic has two axes of one name in {dict(dynamic)}; give each its own")
        if any(not tensor.numel() for tensor in tensors):
            raise ValueError("a tensor of the example is empty; give a batch of at least one")
        return made

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, in the order of the forward's inputs."""
        return [leaf for leaf in pytree.tree_leaves((self.arguments, self.keywords)) if isinstance(leaf, Tensor)]

    def run(self, model: nn.Module) -> Any:
        """What ``model`` gives for it, which may write to its input."""
        arguments, keywords = copied((self.arguments, self.keywords))
        with torch.no_grad():
            return model(*arguments, **keywords)

    def bound(self, model: nn.Module, value: Callable[[Tensor], Any]) -> dict[str, Any]:
        """The arguments by the forward's parameters, with ``value`` of each tensor and None for what is none."""
        bound = signature(model.forward).bind(*self.arguments, **self.keywords).arguments
        return {
            name: pytree.tree_map(lambda leaf: value(leaf) if isinstance(leaf, Tensor) else None, given)
            for name, given in bound.items()
        }

    def axes(self, tensor: Tensor) -> dict[int, str]:
        """The names of the tensor's axes that may vary."""
        return {axis: name for axis, name in self.dynamic.items() if axis < tensor.dim()}

    def traced(self) -> "Example":
        """An example with at least two along each axis that may vary: torch takes a size of 1 for a constant."""
        return self._resized(lambda size: max(size, 2))

    def other(self) -> "Example":
        """An example with other sizes, a function of the size alone, so that equal axes stay equal."""
        return self.traced()._resized(lambda size: size - 1 if size > 2 else size + 1)

    def of_one(self) -> "Example":
        """An example with size 1 along every axis that may vary, which code may treat as a case of its own."""
        return self._resized(lambda size: 1)

    def sizes(self) -> str:
        """The sizes of the axes that may vary, for readers."""
        found = {
            name: [str(t.shape[axis]) for t in self.tensors if axis < t.dim()] for axis, name in self.dynamic.items()
        }
        return ", ".join(f"{name} {'/'.join(dict.fromkeys(sizes))}" for name, sizes in found.items())

    def _resized(self, size: Callable[[int], int]) -> "Example":
        """The rows are those of this example again, so that ids and masks stay possible values."""

        def resized(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            for axis in self.axes(leaf):
                old = leaf.shape[axis]
                rows = torch.arange(size(old), device=leaf.device) % old
                leaf = leaf.index_select(axis, rows)
            return leaf

        arguments, keywords = pytree.tree_map(resized, (self.arguments, self.keywords))
        return Example(arguments, keywords, self.dynamic)
