"""The search for an order of channels in which n of m neighbours keep more of the scores.

A place is one channel's. Where the n-th best of its m - 1 neighbours has the score t, and the n - 1 best sum to b,
their group keeps b + max(t, s) with a channel of score s at that place, summed over all rows of all weights that read
it. So channels at places that are not neighbours can be assigned anew, all at once and at best, by a linear assignment,
as in RIA (Zhang et al., ICLR 2024, "Plug-and-Play"), where each group gives one channel away at a time. Rounds go on
with other places until they gain hardly anything, or time is over. Since max(t, s) = (t + s + |t - s|) / 2, all values
of a round are one matrix of distances.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openwork.inference.permute.assignment import best_assignment

_ROUNDS, _LITTLE = 8, 1e-4
"""The search ends when so many rounds together have gained less than this fraction."""
_SURE = 1e-6
"""Distances are summed in float32; a round that gains less may have gained nothing."""


@dataclass
class Columns:
    """The scores of a weight by its inputs, in their present order.

    Args:
        scores: (inputs, rows).
    """

    scores: Tensor

    def kept(self, n: int, m: int) -> float:
        """The sum of the ``n`` best of each ``m`` neighbours."""
        groups = self.scores.view(-1, m, self.scores.shape[1])
        return float(_best(groups.movedim(1, 0), n).sum(dtype=torch.float64))


@dataclass
class Reading:
    """A weight that reads channels of a cell, each once.

    Args:
        columns: The weight's scores.
        places: Where it reads each place of the cell.
    """

    columns: Columns
    places: Tensor


def search(
    readings: Sequence[Reading], n: int, m: int, *, until: float, generator: torch.Generator
) -> tuple[Tensor, bool]:
    """Reorders the columns of all readings, and returns the channel that each place has then, and whether it is done.

    Args:
        readings: Who reads the channels; their columns are in the new order afterwards.
        n: How many stay.
        m: Of how many neighbours.
        until: When it ends in any case, by `time.monotonic`.
        generator: A CPU generator, seeded.
    """
    now = torch.arange(len(readings[0].places), device="cpu")
    beside = _neighbours(readings, m)
    gains: list[float] = []
    kept = sum(reading.columns.kept(n, m) for reading in readings)
    while len(gains) < _ROUNDS or sum(gains[-_ROUNDS:]) > _LITTLE * abs(kept):
        if time.monotonic() > until:
            return now, False
        chosen = _apart(beside, torch.randperm(len(now), generator=generator, device="cpu"))
        value = torch.stack([_values(reading, chosen, n, m) for reading in readings]).sum(0).cpu()
        found = torch.from_numpy(best_assignment(value.numpy()))
        gains.append(float(value.gather(1, found[:, None]).sum() - value.trace()))
        if gains[-1] <= _SURE * float(value.trace().abs()):
            gains[-1] = 0.0
            continue
        now[chosen] = now[chosen[found]]
        for reading in readings:
            scores = reading.columns.scores
            at = reading.places[chosen].to(scores.device)
            scores[at] = scores[at[found.to(at.device)]]
    return now, True


def _values(reading: Reading, chosen: Tensor, n: int, m: int) -> Tensor:
    """What the group of each chosen place keeps with the channel of each: (chosen, chosen) float64."""
    scores = reading.columns.scores
    places = reading.places[chosen].to(scores.device)
    first = places // m * m
    others = torch.stack([first + (places - first + step) % m for step in range(1, m)])
    best = _best(scores[others.flatten()].view(m - 1, len(places), -1), n)
    own, limit = scores[places], best[-1]
    sums = limit.sum(1, dtype=torch.float64)[:, None] + own.sum(1, dtype=torch.float64)
    base = best[:-1].sum((0, 2), dtype=torch.float64)[:, None]
    return base + (sums + torch.cdist(limit, own, p=1).double()) / 2


def _best(places: Tensor, n: int) -> Tensor:
    """The ``n`` largest of each column of ``places`` (m, ...), the largest first: (n, ...)."""
    best = list(places[:1])
    for new in places[1:]:
        for rank, old in enumerate(best):
            best[rank], new = torch.maximum(old, new), torch.minimum(old, new)
        if len(best) < n:
            best.append(new)
    return torch.stack(best[:n])


def _neighbours(readings: Sequence[Reading], m: int) -> Tensor:
    """Which places share a group in any reading: (places, places) bool."""
    count = len(readings[0].places)
    found = torch.zeros(count, count, dtype=torch.bool, device="cpu")
    for reading in readings:
        group = reading.places // m
        found |= group[:, None] == group
    return found


def _apart(beside: Tensor, order: Tensor) -> Tensor:
    """Places of which no two are neighbours, taken in this order while there are any."""
    free, chosen = torch.ones(len(order), dtype=torch.bool, device="cpu"), []
    for place in order.tolist():
        if free[place]:
            chosen.append(place)
            free &= ~beside[place]
    return torch.tensor(chosen, device="cpu")
