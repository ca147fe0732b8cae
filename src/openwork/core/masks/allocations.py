"""Allocations: how many weights each tensor keeps when the model as a whole is to reach a sparsity."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from openwork.core.masks.counting import read_tables
from openwork.core.masks.scores import in_batches, like, weights_in
from openwork.core.masks.threshold import keep_count
from openwork.core.names import fits
from openwork.core.precision import where_float64_is
from openwork.core.sharded import ALONE, is_sharded, local, shards_of
from openwork.kernels.select import count_reaching, kth_largest_of_all, on
from openwork.kernels.select_rows import kth_largest_of_rows


@dataclass(frozen=True)
class Allocation(ABC):
    """The base of allocations, which say how many weights each tensor keeps. An immutable value.

    Counts rather than fractions, so that totals are exact.
    """

    same_sparsity: ClassVar[bool] = False
    """Whether every tensor has the schedule's sparsity."""
    one_threshold: ClassVar[bool] = False
    """Whether the weights of all tensors compete with each other, so that a tensor's best are not enough."""
    needs_scores: ClassVar[bool] = True
    """Whether the counts depend on the scores, and not on their shapes alone."""

    @abstractmethod
    def __call__(
        self, scores: Mapping[str, Tensor], sparsity: float, final: float, groups: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        """How many weights each tensor keeps, by name.

        Args:
            scores: The scores of each tensor, by name; -inf is never kept. Those of weights that FSDP2 shards are
                DTensors.
            sparsity: The schedule's value, in [0, 1).
            final: The value that the schedule ends with.
            groups: How many weights of a tensor are kept or removed together, by name, and share one score; by default
                1.
        """

    def of_many(self, scores: Mapping[str, Tensor], sparsities: Sequence[float]) -> list[dict[str, int]] | None:
        """The counts of many models at once; None where they must be asked for one by one, as by default.

        Args:
            scores: The scores of each tensor, by name, (models, n).
            sparsities: The schedule's value of each model.
        """
        return None


@dataclass(frozen=True)
class Uniform(Allocation):
    """Every tensor keeps floor(n * (1 - sparsity)) of its n weights (Gale et al. 2019)."""

    same_sparsity: ClassVar[bool] = True
    needs_scores: ClassVar[bool] = False

    def __call__(
        self, scores: Mapping[str, Tensor], sparsity: float, final: float, groups: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        """floor(n * (1 - sparsity)) of each."""
        return {name: keep_count(score.numel(), sparsity) for name, score in scores.items()}


@dataclass(frozen=True, init=False)
class PerLayer(Allocation):
    """Uniform, except for weights or layers that have a target: ``PerLayer({"fc3": 0.5, "conv1*": 0.0})``.

    Args:
        targets: The final sparsity of a weight, in [0, 1), by a shell pattern for its name (``fc3.weight``) or that of
            a module around it (``fc3``). On the way a target follows the schedule's shape, scaled: s(t) * target /
            final, as TensorFlow's weight_sparsity_map does.

    Raises:
        ValueError: If a target is outside [0, 1); in `sparsify`, if one matches nothing or a weight matches two.
    """

    needs_scores: ClassVar[bool] = False

    targets: tuple[tuple[str, float], ...]

    def __init__(self, targets: Mapping[str, float] | tuple[tuple[str, float], ...]) -> None:
        entries = tuple(targets.items()) if isinstance(targets, Mapping) else targets
        for pattern, target in entries:
            if not 0 <= target < 1:
                raise ValueError(
                    f"sparsity must be in [0, 1), got {target} for {pattern!r}; did you pass a percentage?"
                )
        object.__setattr__(self, "targets", entries)

    def __call__(
        self, scores: Mapping[str, Tensor], sparsity: float, final: float, groups: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        """floor(n * (1 - scaled target)) of each."""
        unused = {pattern for pattern, _ in self.targets}
        keep = {}
        for name, score in scores.items():
            matches = [entry for entry in self.targets if fits(entry[0], name)]
            if len(matches) > 1:
                raise ValueError(f"{name} matches {matches[0][0]!r} and {matches[1][0]!r}; give each weight one target")
            unused -= {pattern for pattern, _ in matches}
            target = matches[0][1] * sparsity / final if matches and final else sparsity
            keep[name] = keep_count(score.numel(), target)
        if unused:
            raise ValueError(
                f"per-layer target {sorted(unused)[0]!r} matches no selected weight; they are {', '.join(scores)}"
            )
        return keep


@dataclass(frozen=True)
class GlobalRanking(Allocation):
    """One threshold over all tensors: the weights with the largest scores stay, wherever they are.

    The total is exact: floor(n * (1 - sparsity)) of all n weights. A layer may end up empty.
    """

    one_threshold: ClassVar[bool] = True

    def __call__(
        self, scores: Mapping[str, Tensor], sparsity: float, final: float, groups: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        """Exact counts under one common threshold."""
        return _ranked(scores, keep_count(weights_in(scores), sparsity))

    def of_many(self, scores: Mapping[str, Tensor], sparsities: Sequence[float]) -> list[dict[str, int]]:
        """The same, with one wait for the device."""
        every = torch.cat(list(scores.values()), 1)
        totals = [keep_count(every.shape[1], sparsity) for sparsity in sparsities]
        thresholds = kth_largest_of_rows(every, on(torch.tensor(totals, device="cpu"), every.device))[:, None]
        parts = [score > thresholds for score in scores.values()] + [score == thresholds for score in scores.values()]
        counts = torch.stack([part.sum(1) for part in parts], 1).tolist()
        return [_spread(scores, total, row) for total, row in zip(totals, counts, strict=True)]


@dataclass(frozen=True)
class ERK(Allocation):
    """Small and thin tensors keep more: the fraction kept is proportional to sum(shape) / prod(shape).

    Evci et al. 2020, "Rigging the Lottery", arXiv 1911.11134. Tensors that would keep more weights than they have stay
    dense, and the others share the rest. The total is exact: floor(n * (1 - sparsity)) of all n weights.
    """

    needs_scores: ClassVar[bool] = False

    def __call__(
        self, scores: Mapping[str, Tensor], sparsity: float, final: float, groups: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        """Exact counts, rounded by largest remainder."""
        total = keep_count(weights_in(scores), sparsity)
        share = {name: float(sum(score.shape)) for name, score in scores.items()}  # of weights, up to a common factor
        size = {name: score.numel() for name, score in scores.items()}
        keep: dict[str, float] = {}
        while share:
            factor = (total - sum(keep.values())) / sum(share.values())
            full = [name for name in share if factor * share[name] >= size[name]]
            if not full:
                keep |= {name: factor * share[name] for name in share}
                break
            for name in full:
                keep[name] = size[name]
                del share[name]
        counts = {name: int(keep[name] + 1e-6) for name in scores}
        remainders = sorted(scores, key=lambda name: counts[name] - keep[name])  # largest first, ties in model order
        for name in remainders[: total - sum(counts.values())]:
            counts[name] += 1
        return counts


@dataclass(frozen=True)
class LAMP(Allocation):
    """One threshold over scores that each layer scales by what it would still keep.

    Lee et al. 2021, "Layer-adaptive sparsity for the magnitude-based pruning", arXiv 2010.07611: the score of a weight
    is its square over the sum of the squares that are not smaller in its tensor; under a pattern, that of a group. The
    total is exact, and a tensor's largest weight goes last. For scores >= 0, such as magnitudes.

    Raises:
        ValueError: In `sparsify` or `attach`, if FSDP2 shards the weights.
    """

    one_threshold: ClassVar[bool] = True

    def __call__(
        self, scores: Mapping[str, Tensor], sparsity: float, final: float, groups: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        """Exact counts; within a tensor the order is that of the scores."""
        if any(is_sharded(tensor) for tensor in like(scores).values()):
            raise ValueError(
                "LAMP() needs a tensor's scores in order, and fully_shard spreads them over processes; use "
                "GlobalRanking() or ERK()"
            )
        adapted = {name: _adapted(score, groups[name] if groups else 1) for name, score in scores.items()}
        return _ranked(adapted, keep_count(weights_in(scores), sparsity))


def _adapted(scores: Tensor, group: int) -> Tensor:
    """The scores of `LAMP`, largest first, float64.

    Args:
        scores: A tensor's.
        group: How many weights share one score.
    """
    flat = -scores.detach().flatten().clamp(min=0)  # -inf, never kept, counts as 0
    if flat.device.type != "cpu":
        squares = where_float64_is(flat.sort().values[::group]).double().square()
        rest = squares.cumsum(0)  # of this one and all larger ones
        return torch.where(rest > 0, squares / rest, 0.0).repeat_interleave(group)
    # The same in little memory and, since numpy's sort is vectorised, in a third of the time.
    array = flat.numpy()
    array.sort()
    with np.errstate(all="ignore"):
        found = np.square(array[::group], dtype=np.float64)
        rests = np.cumsum(found)
        np.divide(found, rests, out=found, where=rests > 0)
    return torch.from_numpy(found if group == 1 else found.repeat(group))


def _ranked(scores: Mapping[str, Tensor], total: int) -> dict[str, int]:
    """How many of the ``total`` largest scores each tensor has; ties at the threshold go to the first tensors."""
    if total == 0:
        return dict.fromkeys(scores, 0)
    shards = shards_of(*like(scores).values())
    device = local(next(iter(like(scores).values()))).device
    dtype, wanted = None, torch.float32
    while dtype != wanted:  # a wider one may come to light on the way
        dtype = wanted

        def batches() -> Iterator[list[Tensor]]:
            nonlocal wanted
            for some in in_batches(scores):
                wanted = reduce(torch.promote_types, (score.dtype for score in some), wanted)
                yield some

        threshold = kth_largest_of_all(batches, total, dtype, device, None if shards is ALONE else shards.add)
    tables = read_tables([count_reaching(some, threshold) for some in in_batches(scores)])
    above, ties = ([number for table in tables for number in table[row]] for row in range(2))
    return _spread(scores, total, shards.sum([*above, *ties]))


def _spread(names: Collection[str], total: int, counts: Sequence[int]) -> dict[str, int]:
    """How many each tensor keeps, of whose counts the first half are above the common threshold, the others at it."""
    keep = dict(zip(names, counts, strict=False))
    missing = total - sum(keep.values())
    for name, ties in zip(names, counts[len(keep) :], strict=True):
        extra = min(missing, ties)
        keep[name] += extra
        missing -= extra
    return keep
