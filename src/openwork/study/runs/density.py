"""How sparse runs are at one moment: the counts of their selected weights, of one run or of a whole fleet at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openwork.core.sparsifier import Sparsifier
from openwork.core.stacked import Stacked


@dataclass(frozen=True)
class Density:
    """The counts of one run's selected weights, each by the weight's name.

    Args:
        weights: All of them.
        zeros: The zeros that evaluation uses.
        expected_nonzero: The number of non-zero weights that training computes with, kept or expected.
    """

    weights: Mapping[str, int]
    zeros: Mapping[str, int]
    expected_nonzero: Mapping[str, float]

    def row(self) -> dict[str, Any]:
        """What a row of metrics.jsonl says of the single weights and of training."""
        layers = {name: self.zeros[name] / max(size, 1) for name, size in self.weights.items()}
        return {"layers": layers, "expected_density": sum(self.expected_nonzero.values()) / sum(self.weights.values())}

    @property
    def sparsity(self) -> float:
        """The fraction of zeros."""
        return sum(self.zeros.values()) / sum(self.weights.values())


def density(sparsifier: Sparsifier) -> Density:
    """That of one run."""
    return Density(_sizes(sparsifier), *sparsifier.mechanism.counts())


def densities(sparsifier: Sparsifier, stacked: Stacked) -> list[Density]:
    """Those of the runs of a fleet, which are read back from the device together.

    Args:
        sparsifier: That of one of the runs.
        stacked: What makes all of them sparse.
    """
    sizes = _sizes(sparsifier)
    zeros, nonzero = (zip(*(counts[name].tolist() for name in sizes), strict=True) for counts in stacked.counts())
    return [
        Density(sizes, dict(zip(sizes, some, strict=True)), dict(zip(sizes, map(float, others), strict=True)))
        for some, others in zip(zeros, nonzero, strict=True)
    ]


def _sizes(sparsifier: Sparsifier) -> dict[str, int]:
    return {weight.name: weight.parameter.numel() for weight in sparsifier.weights}
