"""Each technique's frontier for any choice of seeds, and the techniques that beat its points, for a page's filters."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations, pairwise
from statistics import fmean

from openwork.study.evaluation.metric import Metric
from openwork.study.results.frontier import Pair, beats, connected, frontier, place
from openwork.study.results.replicates import finished_replicates, mean_pairs
from openwork.study.results.result import Result
from openwork.study.results.student import bounded_interval

FEW = 6
"""Up to this many seeds can be chosen freely, 2^6 - 1 ways; of more, all or one."""


@dataclass(frozen=True)
class FrontPoint:
    """A point on the frontier of its technique, over the chosen seeds.

    Args:
        technique: Its name.
        settings: Its settings as text.
        n: The number of seeds (`Result.replicate`).
        sparsity: The mean over seeds, 0-1.
        score: The mean over seeds.
        interval: As `Point.interval`.
        beaten_by: The techniques with a point that beats it.
        piece: The number of the curve that it is on: a line is drawn within each (`frontier.connected`).
    """

    technique: str
    settings: str
    n: int
    sparsity: float
    score: float
    interval: tuple[float, float] | None
    beaten_by: tuple[str, ...]
    piece: int = 0


def choices(seeds: Iterable[int]) -> list[tuple[int, ...]]:
    """The choices among seeds, each in rising order: every choice of up to `FEW` seeds; of more, all seeds or one."""
    ordered = sorted(set(seeds))
    if len(ordered) > FEW:
        return [tuple(ordered), *((seed,) for seed in ordered)]
    return [chosen for size in range(1, len(ordered) + 1) for chosen in combinations(ordered, size)]


def fronts(results: Iterable[Result]) -> dict[tuple[int, ...], list[FrontPoint]]:
    """The frontiers of the sparse techniques on one task, for each of the `choices` among the seeds that finished."""
    groups: dict[str, list[Result]] = {}
    metric: Metric | None = None
    for result in results:
        metric = result.metric
        if result.finished and not result.dense:
            groups.setdefault(result.group, []).append(result)
    measured = {
        (group[0].name, group[0].shared_settings, key): mean_pairs(finished_replicates(group))
        for key, group in groups.items()
    }
    seeds = {seed for group in measured.values() for seed in group}
    return {chosen: _fronts(measured, chosen, metric) for chosen in choices(seeds)}


def _pieces(line: Sequence[Pair], pairs: Sequence[Pair]) -> dict[Pair, int]:
    """The number of the curve that each point of a frontier of these pairs is on."""
    breaks = [not connected(left, right, pairs) for left, right in pairwise(line)]
    return dict(zip(line, accumulate(breaks, initial=0), strict=True)) if line else {}


def _fronts(
    measured: dict[tuple[str, str, str], dict[int, Pair]], chosen: Sequence[int], metric: Metric | None
) -> list[FrontPoint]:
    points: dict[str, list[tuple[Pair, Pair, str, list[float]]]] = {}
    for (name, settings, _), by_seed in measured.items():
        if pairs := [by_seed[seed] for seed in chosen if seed in by_seed]:
            scores = [score for _, score in pairs]
            mean = fmean(sparsity for sparsity, _ in pairs), fmean(scores)
            points.setdefault(name, []).append((place(*mean), mean, settings, scores))
    lines = {name: frontier(compared for compared, *_ in found) for name, found in points.items()}
    return [
        FrontPoint(
            technique=name,
            settings=settings,
            n=len(scores),
            sparsity=mean[0],
            score=mean[1],
            interval=bounded_interval(scores, metric),
            beaten_by=tuple(other for other, line in lines.items() if any(beats(pair, compared) for pair in line)),
            piece=line[compared],
        )
        for name, found in sorted(points.items())
        for line in [_pieces(lines[name], [compared for compared, *_ in found])]
        for compared, mean, settings, scores in sorted(found)
        if compared in line
    ]
