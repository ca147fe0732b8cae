"""OWL: Yin et al. 2023, arXiv 2310.05175, section 3: blocks with many outliers among their scores keep more."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from openwork.core.masks.allocations import Allocation
from openwork.core.masks.scores import like, weights_in
from openwork.core.masks.threshold import keep_count
from openwork.core.precision import where_float64_is
from openwork.core.sharded import is_sharded


@dataclass(frozen=True)
class OWL(Allocation):
    """Blocks keep more, the more of their scores are outliers; all weights of a block have one sparsity.

    ``ow.prune(model, Wanda(OneShot(0.7), allocation=OWL()), batches=loader)``. With D the share of a block's scores
    that are above ``outliers`` times their mean, the fraction kept is 2 λ (D - min D) / (max D - min D), shifted so
    that the mean over all weights is 1 - s. The total is exact: floor(n * (1 - sparsity)) of all n weights. A block is
    what shares a name up to its first number (``encoder.layer.3``); a layer without a number is one of its own.

    Args:
        outliers: M > 0; an outlier is above M times the mean.
        spread: λ, half the difference between the largest and the smallest fraction kept, >= 0.

    Raises:
        ValueError: If a number is outside its range; in `sparsify`, if FSDP2 shards the weights.
    """

    outliers: float = 5.0
    spread: float = 0.08

    def __post_init__(self) -> None:
        if not self.outliers > 0 or not 0 <= self.spread <= 0.5:
            raise ValueError(
                f"outliers must be > 0 and spread in [0, 0.5], got outliers={self.outliers} and spread={self.spread}"
            )

    def __call__(
        self, scores: Mapping[str, Tensor], sparsity: float, final: float, groups: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        """Exact counts, rounded by largest remainder."""
        if any(is_sharded(tensor) for tensor in like(scores).values()):
            raise ValueError(
                "OWL() counts the outliers of whole tensors, and fully_shard spreads them over processes; use ERK(), "
                "or prune before fully_shard"
            )
        blocks: dict[str, list[str]] = {}
        for name in scores:
            blocks.setdefault(block_of(name), []).append(name)
        shares = {block: _share(self.outliers, scores, names) for block, names in blocks.items()}
        low, high = min(shares.values()), max(shares.values())
        raw = {
            name: 2 * self.spread * (shares[block] - low) / (high - low) if high > low else 0.0
            for block, names in blocks.items()
            for name in names
        }
        return _counts(
            raw,
            {name: tensor.numel() for name, tensor in like(scores).items()},
            keep_count(weights_in(scores), sparsity),
        )


def block_of(name: str) -> str:
    """A weight's name up to its first number, or that of its layer."""
    parts = name.split(".")
    first = next((place for place, part in enumerate(parts) if part.isdigit()), len(parts) - 2)
    return ".".join(parts[: first + 1])


def _share(outliers: float, scores: Mapping[str, Tensor], names: list[str]) -> float:
    """The share of outliers among the scores of these weights, together."""
    some = [scores[name].clamp(min=0) for name in names]  # -inf, never kept, counts as 0
    total = max(sum(score.numel() for score in some), 1)
    mean = torch.stack([where_float64_is(score).sum(dtype=torch.float64).cpu() for score in some]).sum() / total
    above = torch.stack([(score > outliers * mean.item()).sum().cpu() for score in some]).sum()
    return above.item() / total


def _counts(raw: Mapping[str, float], sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Whole numbers that add up to ``total``: the fractions ``raw``, moved by one amount, and within 0 and 1."""

    def wanted(shift: float) -> dict[str, float]:
        return {name: sizes[name] * min(max(raw[name] + shift, 0.0), 1.0) for name in raw}

    low, high = -1.0, 1.0
    for _ in range(60):  # halves the interval, beyond the precision of float64
        middle = (low + high) / 2
        low, high = (low, middle) if sum(wanted(middle).values()) > total else (middle, high)
    exact = wanted(low)
    counts = {name: int(number + 1e-6) for name, number in exact.items()}
    largest = sorted(counts, key=lambda name: counts[name] - exact[name])
    for name in largest[: total - sum(counts.values())]:
        counts[name] += 1
    return counts
