"""How layers store their weights: which axes are outputs, inputs and kernel positions, and which count matrices.

Patterns, Wanda and the report look at a weight as matrices (out, in, kernel...). Linear, convolutions, recurrent layers
and attention store one so; an Embedding's is taken as stored, (tokens, features), like the softmax weight that it is
often tied to. ConvTranspose and the Conv1D of transformers store inputs first. Experts, and the groups of a
convolution, are several matrices in one tensor. `declare_layout` says how a module of yours stores its own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

Along = Literal["outputs", "inputs"]
"""Where the matrices of one tensor lie side by side: as more outputs, or as more inputs."""

NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _NormBase)
_DECLARED = "_openwork_layout"
# Modules of other libraries are known by their names, since importing transformers takes seconds.
_BY_NAME = {
    "Conv1D": {"weight": "in out"},
    "JetMoeParallelExperts": {"weight": "experts out in"},
    "GraniteMoeParallelExperts": {"weight": "experts out in"},
    "AriaGroupedExpertsGemm": {"weight": "experts in out"},
    "LongcatFlashExperts": {"gate_up_proj": "experts out in", "down_proj": "experts out in"},
    "Step3p7Experts": {"gate_up_proj": "experts out in", "down_proj": "experts out in"},
    "Llama4TextExperts": {"gate_up_proj": "experts in out", "down_proj": "experts in out"},
    "InklingSharedExperts": dict.fromkeys(("gate_proj", "up_proj", "down_proj"), "experts out in"),
}


@dataclass(frozen=True)
class Layout:
    """How one weight is stored.

    Args:
        axes: What each axis counts: "out", "in", "kernel", or, by any other word, matrices side by side. Several axes
            that are "out" or "in" together count outputs or inputs.
        stored: The shape as stored.
        groups: How many matrices the first axis holds one after the other; ``axes`` then begins with their own axis.
    """

    axes: tuple[str, ...]
    stored: tuple[int, ...]
    groups: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """(matrices, out, in, kernel...)."""
        kernel = [size for axis, size in zip(self.axes, self._sizes, strict=True) if axis == "kernel"]
        return self._count(None), self._count("out"), self._count("in"), *kernel

    @property
    def input_axis(self) -> int | None:
        """The stored axis along which inputs are neighbours; None where they have several axes."""
        if self.axes.count("in") != 1:
            return None
        return self.axes.index("in") - (len(self.axes) - len(self.stored))

    def merged_shape(self, along: Along) -> tuple[int, ...]:
        """(out, in, kernel...) of all matrices side by side."""
        matrices, outputs, inputs, *kernel = self.shape
        return (matrices * outputs, inputs, *kernel) if along == "outputs" else (outputs, matrices * inputs, *kernel)

    def matrices(self, tensor: Tensor) -> Tensor:
        """``tensor``, of the stored shape, as (matrices, out, in, kernel...)."""
        return tensor.reshape(self._sizes).permute(self._order).reshape(self.shape)

    def merged(self, tensor: Tensor, along: Along) -> Tensor:
        """``tensor``, of the stored shape, as (out, in, kernel...) with its matrices side by side."""
        found = self.matrices(tensor)
        return found.flatten(0, 1) if along == "outputs" else found.transpose(0, 1).flatten(1, 2)

    def as_stored(self, tensor: Tensor, along: Along) -> Tensor:
        """The inverse of `merged`."""
        matrices, outputs, inputs, *kernel = self.shape
        if along == "inputs":
            tensor = tensor.reshape(outputs, matrices, inputs, *kernel).transpose(0, 1)
        tensor = tensor.reshape([self._sizes[place] for place in self._order])
        return tensor.permute([self._order.index(place) for place in range(len(self._order))]).reshape(self.stored)

    @property
    def _sizes(self) -> tuple[int, ...]:
        first = (self.groups, self.stored[0] // self.groups) if len(self.axes) > len(self.stored) else self.stored[:1]
        return (*first, *self.stored[1:])

    @property
    def _order(self) -> list[int]:
        """The axes in the order matrices, outputs, inputs, kernel."""
        rank = {"out": 1, "in": 2, "kernel": 3}
        return sorted(range(len(self.axes)), key=lambda place: rank.get(self.axes[place], 0))

    def _count(self, role: str | None) -> int:
        roles = [axis if axis in ("out", "in", "kernel") else None for axis in self.axes]
        return math.prod(size for own, size in zip(roles, self._sizes, strict=True) if own == role)


def declare_layout(kind: type[nn.Module], layout: str | Mapping[str, str]) -> None:
    """Declares how modules of a type store their matrices, for patterns, `Wanda`, `report` and the default selection.

    ``declare_layout(MyExperts, {"w1": "experts out in", "w2": "experts in out"})``

    Args:
        kind: The type of module; the declaration holds for its subclasses, too.
        layout: What each axis of a parameter counts, by the parameter's name in the module: "out", "in" and "kernel"
            axes, and any other word for matrices side by side, such as "experts". One text is for the parameter
            ``weight``.

    Raises:
        TypeError: If ``kind`` is no type of module.
        ValueError: If a layout has no "out" or no "in".
    """
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise TypeError(f"declare_layout takes a type of module such as MyExperts, got {kind!r}")
    entries = {"weight": layout} if isinstance(layout, str) else dict(layout)
    for leaf, text in entries.items():
        words = text.split() if isinstance(text, str) else []
        if "out" not in words or "in" not in words:
            raise ValueError(
                f"the layout of {leaf} must say where outputs and inputs lie, as 'experts out in' does, got {text!r}"
            )
    setattr(kind, _DECLARED, getattr(kind, _DECLARED, {}) | entries)


def layout_of(module: nn.Module, leaf: str, shape: Sequence[int]) -> Layout | None:
    """How ``module`` stores its parameter; None where that is unknown, or the parameter holds no matrices.

    Args:
        module: The module that owns it.
        leaf: The parameter's name in the module.
        shape: Its shape.

    Raises:
        ValueError: If a declared layout has another number of axes.
    """
    stored = tuple(shape)
    declared = getattr(module, _DECLARED, {}).get(leaf)
    if declared is not None:
        if len(declared.split()) != len(stored):
            raise ValueError(
                f"the layout {declared!r} declared for {leaf} of {type(module).__name__} has {len(declared.split())} "
                f"axes and its shape is {stored}; declare one word for each axis"
            )
        return Layout(tuple(declared.split()), stored)
    if len(stored) < 2 or isinstance(module, NORMS):
        return None
    for find in (_convolution, _experts, _by_name, _plain):
        if (layout := find(module, leaf, stored)) is not None:
            return layout
    return None


def stored_layout(name: str, shape: Sequence[int]) -> Layout | None:
    """How a file's tensor, which has no module, is taken to be stored: (out, in, kernel...), or (experts, out, in).

    Args:
        name: Its name; experts are known by theirs.
        shape: Its shape.
    """
    if len(shape) < 2:
        return None
    experts = len(shape) == 3 and "experts" in name
    return Layout(("experts", "out", "in") if experts else ("out", "in", *("kernel",) * (len(shape) - 2)), tuple(shape))


def holds_experts(module: nn.Module, shape: Sequence[int]) -> bool:
    """Whether a parameter of this shape is the matrices of experts, even where their layout is not known."""
    return len(shape) == 3 and any(name.endswith("Experts") for name in _kinds(module))


def unknown_layout(module: nn.Module, leaf: str, shape: Sequence[int]) -> str:
    """Why patterns do not see a parameter whose layout is not known, and the cure."""
    kind = type(module).__name__
    if isinstance(module, NORMS):
        return f"a {kind} multiplies with single elements of its {leaf}, not with a matrix"
    words = " ".join(["experts", "out", "in"][-len(shape) :] if len(shape) < 4 else ["out", "in", "kernel", "..."])
    return (
        f"it is not known which axes of {leaf} {tuple(shape)} a {kind} multiplies; "
        f"declare them, such as declare_layout({kind}, {{{leaf!r}: {words!r}}})"
    )


def _convolution(module: nn.Module, leaf: str, stored: tuple[int, ...]) -> Layout | None:
    groups, outputs, inputs = (getattr(module, name, None) for name in ("groups", "out_channels", "in_channels"))
    if leaf != "weight" or len(stored) < 3 or not (isinstance(groups, int) and outputs and inputs):
        return None
    # Convolutions of other libraries, such as torchvision's deformable ones, are known by the shape of their weight.
    if not isinstance(module, _ConvNd) and stored[:2] != (outputs, inputs // groups):
        return None
    pair = ("in", "out") if isinstance(module, _ConvTransposeNd) else ("out", "in")
    axes = (*pair, *("kernel",) * (len(stored) - 2))
    return Layout(("groups", *axes) if groups > 1 else axes, stored, groups)


def _experts(module: nn.Module, leaf: str, stored: tuple[int, ...]) -> Layout | None:
    """Those of transformers say themselves whether they store inputs first."""
    transposed = getattr(module, "is_transposed", None)
    if isinstance(transposed, bool) and holds_experts(module, stored):
        return Layout(("experts", "in", "out") if transposed else ("experts", "out", "in"), stored)
    experts = getattr(module, "moe_num_experts", None)
    if isinstance(experts, int) and "DbrxExpertGLU" in _kinds(module):
        return Layout(("experts", *(("in", "out") if leaf == "w2" else ("out", "in"))), stored, experts)
    return None


def _by_name(module: nn.Module, leaf: str, stored: tuple[int, ...]) -> Layout | None:
    for kind in _kinds(module):
        words = _BY_NAME.get(kind, {}).get(leaf, "").split()
        if words and len(words) == len(stored):
            return Layout(tuple(words), stored)
    return None


def _plain(module: nn.Module, leaf: str, stored: tuple[int, ...]) -> Layout | None:
    """(out, in), as torch stores what is called a weight; a Bilinear has further inputs in the place of a kernel."""
    if isinstance(module, nn.Bilinear) and len(stored) == 3:
        return Layout(("out", "in", "kernel"), stored)
    return Layout(("out", "in"), stored) if len(stored) == 2 and is_called_weight(leaf) else None


def is_called_weight(leaf: str) -> bool:
    """Whether a parameter is called as layers call their matrices: weight, in_proj_weight, weight_ih_l0."""
    return leaf == "weight" or leaf.endswith("_weight") or leaf.startswith(("weight_ih", "weight_hh", "weight_hr"))


def _kinds(module: nn.Module) -> list[str]:
    """The names of the module's type and of those that it inherits from."""
    return [kind.__name__ for kind in type(module).__mro__]
