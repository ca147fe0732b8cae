"""What became of the files that `openwork prune` read: tensor by tensor, and together."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Layer:
    """What became of one tensor of the files.

    Args:
        name: Its name there.
        shape: Its shape.
        zeros: How many of its weights are zero now.
        before: The fraction that was zero before, 0-1.
        now: The fraction that is zero now, 0-1.
        error: How much of the layer's outputs changed, as `PrunedLayer` has it; None where nobody looked.
        taken_for: What it was pruned as, where no module says what it is; "" where one does.
        remark: What is special about it; "" where nothing is.
    """

    name: str
    shape: tuple[int, ...]
    zeros: int
    before: float
    now: float
    error: float | None = None
    taken_for: str = ""
    remark: str = ""


@dataclass(frozen=True)
class Rewritten:
    """What became of the files.

    Args:
        layers: The pruned tensors, in the files' order.
        skipped: Matrices that stayed as they were, with the reason.
        left_out: Files that were not copied, since they hold the old weights in another format.
        notes: What else there is to say.
        minutes: How long pruning took, without reading and writing.
        peak_memory: The most bytes that were in use; None where the system does not say.
    """

    layers: tuple[Layer, ...]
    skipped: Mapping[str, str]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    minutes: float
    peak_memory: int | None

    @property
    def weights(self) -> int:
        """How many weights the pruned tensors have."""
        return sum(torch.Size(layer.shape).numel() for layer in self.layers)

    @property
    def zeros(self) -> int:
        """How many of them are zero."""
        return sum(layer.zeros for layer in self.layers)

    @property
    def sparsity(self) -> float:
        """The fraction of them that is zero, 0-1."""
        return self.zeros / self.weights if self.weights else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "sparsity": self.sparsity,
            "weights": self.weights,
            "zeros": self.zeros,
            "layers": [asdict(layer) for layer in self.layers],
            "skipped": dict(self.skipped),
            "left_out": list(self.left_out),
            "notes": list(self.notes),
            "minutes": self.minutes,
            "peak_memory": self.peak_memory,
        }
