"""The counts of a model or a checkpoint: for each weight tensor, and in total."""

from dataclasses import dataclass, field
from typing import Any

from openwork.inspect.flops import Flops
from openwork.inspect.not_finite import ALL_FINITE, NotFinite
from openwork.inspect.size import Size


@dataclass(frozen=True)
class LayerCounts:
    """One weight tensor: its name, shape, number of weights and of non-zero ones, and the pattern of its zeros."""

    name: str
    shape: tuple[int, ...]
    weights: int
    nonzero: int
    dtype: str
    size: Size
    accidental: int
    """Zeros that no pruning asks for: those outside the mask where a sparsifier knows it, otherwise all zeros of a
    tensor that has fewer than 1 % of them."""
    dead_outputs: int | None
    """Slices along the first axis without a non-zero: units, filters, embeddings. None if the tensor is too large."""
    dead_inputs: int | None
    """The same along the second axis."""
    groups: dict[str, float] = field(default_factory=dict, hash=False)
    """"2:4" -> the fraction of groups of 4 weights along the input with at most 2 non-zeros; 1:4 and 4:8 likewise."""
    blocks: dict[str, float] = field(default_factory=dict, hash=False)
    """"4x4" -> the fraction of zeros in aligned all-zero blocks of 4 rows and 4 columns; other sizes likewise."""
    flops: tuple[int, int] | None = None
    """(dense, sparse) for the example, None without an example."""
    also: tuple[str, ...] = ()
    """Other names of the same memory (tied weights)."""
    not_finite: NotFinite = ALL_FINITE
    """How many weights are NaN, and how many infinite; they count as non-zero."""

    @property
    def sparsity(self) -> float:
        """The fraction of zeros, 0-1."""
        return (self.weights - self.nonzero) / self.weights if self.weights else 0.0

    @property
    def pattern(self) -> str:
        """The strictest pattern of all zeros: the largest block, else n:m; "" for none, or only accidental zeros."""
        if self.accidental == self.weights - self.nonzero:
            return ""
        if not self.nonzero:
            return "all zero"
        whole = [name for name, fraction in self.blocks.items() if fraction == 1.0]
        return whole[-1] if whole else next((name for name, fraction in self.groups.items() if fraction == 1.0), "")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "name": self.name,
            "also": list(self.also),
            "shape": list(self.shape),
            "dtype": self.dtype,
            "weights": self.weights,
            "nonzero": self.nonzero,
            "sparsity": self.sparsity,
            "accidental": self.accidental,
            "dead": {"outputs": self.dead_outputs, "inputs": self.dead_inputs},
            "pattern": self.pattern,
            "groups": self.groups,
            "blocks": self.blocks,
            "bytes": vars(self.size),
            "flops": {"dense": self.flops[0], "sparse": self.flops[1]} if self.flops else None,
        }


@dataclass(frozen=True)
class Counts:
    """The counts of a model or a checkpoint."""

    layers: tuple[LayerCounts, ...]
    parameters: int
    """All parameters of the model, biases and norms included."""
    zeros: int
    """Zeros among all parameters."""
    size: Size
    """The size of all parameters."""
    flops: Flops | None = None
    """The FLOPs of the example's forward pass, None without an example."""
    skipped: dict[str, str] = field(default_factory=dict, hash=False)
    """Name -> why it does not count, for what a file holds beside parameters."""
    notes: tuple[str, ...] = ()
    """What the counts rest on, one sentence each: layouts of other libraries, what was assumed, which part was read."""
    not_finite: dict[str, NotFinite] = field(default_factory=dict, hash=False)
    """Name -> how many values are NaN, and how many infinite, of each parameter that has such values."""

    @property
    def sparsity(self) -> float:
        """The fraction of zeros, 0-1, among the weights of `layers`."""
        weights = sum(layer.weights for layer in self.layers)
        return sum(layer.weights - layer.nonzero for layer in self.layers) / weights if weights else 0.0

    @property
    def sparsity_all(self) -> float:
        """The fraction of zeros, 0-1, among all parameters."""
        return self.zeros / self.parameters if self.parameters else 0.0

    @property
    def accidental(self) -> int:
        """Accidental zeros of the layers, and all zeros of other parameters, which nobody selected."""
        selected = sum(layer.weights - layer.nonzero for layer in self.layers)
        return sum(layer.accidental for layer in self.layers) + self.zeros - selected
