"""Frontiers of (sparsity, score) pairs: where they lie, what they enclose, and how two of them differ."""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from statistics import fmean

from openwork.study.evaluation.metric import Metric
from openwork.study.results.paired import Difference, paired
from openwork.study.results.result import Result
from openwork.study.results.score import metric_of, worst_score

Pair = tuple[float, float]
"""(sparsity, score)."""
Pairs = list[Pair]


def beats(one: Pair, other: Pair) -> bool:
    """Whether the first (sparsity, score) pair has at least the other's sparsity and score, and more of one of them."""
    return one[0] >= other[0] and one[1] >= other[1] and one != other


def place(sparsity: float, score: float) -> Pair:
    """The pair by which means over seeds are compared: sparsities to 0.01 %.

    Smaller differences come from the rounding of whole weights per layer.
    """
    return round(sparsity, 4), score


def frontier(pairs: Iterable[Pair]) -> Pairs:
    """The pairs that no other pair `beats`, sparsest last; equal pairs once.

    Along the result sparsity rises and the score falls.

    Raises:
        ValueError: For NaN.
    """
    front: Pairs = []
    for sparsity, score in sorted(set(pairs), reverse=True):
        if sparsity != sparsity or score != score:
            raise ValueError(f"a frontier needs numbers, got ({sparsity}, {score}); give diverged runs the worst score")
        # The last pair kept has the highest score of those that are at least as sparse.
        if not (front and beats(front[-1], (sparsity, score))):
            front.append((sparsity, score))
    return front[::-1]


GAP = 10.0
"""Two neighbours of which the sparser has less than a tenth of the other's weights left are no piece of one curve."""


def connected(left: Pair, right: Pair, pairs: Iterable[Pair] = ()) -> bool:
    """Whether what lies between two neighbours of a frontier can be read from them.

    A technique that jumps from few zeros to nearly all, as L0 may, was not seen in between.

    Args:
        left: The less sparse neighbour.
        right: The other.
        pairs: All pairs of the technique: those in between that the right one beats were seen.
    """
    seen = sorted({left[0], right[0], *(sparsity for sparsity, _ in pairs if left[0] < sparsity < right[0])})
    return all((1 - one) <= GAP * (1 - other) * (1 + 1e-9) for one, other in pairwise(seen))


def score_at(pairs: Iterable[tuple[float, float]], sparsity: float) -> float | None:
    """The score of the frontier of `pairs` at `sparsity` (0-1), between its neighbours.

    Between the least sparse pair and the frontier's first, which beats all that lie there, it is the first's: otherwise
    a technique would be missing just where its sparser models are also its better ones. None outside the pairs, and
    between neighbours that are not `connected`.
    """
    pairs = list(pairs)
    front = frontier(pairs)
    if front and min(pairs)[0] <= sparsity < front[0][0]:
        return front[0][1]
    for (left, high), (right, low) in pairwise(front):
        if sparsity in (left, right):
            return high if sparsity == left else low
        if left <= sparsity <= right and connected((left, high), (right, low), pairs):
            return high + (low - high) * (sparsity - left) / (right - left)
    return front[0][1] if len(front) == 1 and front[0][0] == sparsity else None


def hypervolume(pairs: Iterable[tuple[float, float]], reference: tuple[float, float] = (0.0, 0.0)) -> float:
    """The area that `pairs` beat: of all (sparsity, score) above `reference` with a pair at least as good in both.

    One number for a whole frontier, between 0 and (1 - reference sparsity) · (best score - reference score). Compare it
    only between frontiers with the same reference. Zitzler & Thiele, "Multiobjective optimization using evolutionary
    algorithms", PPSN 1998.
    """
    area, left = 0.0, reference[0]
    for sparsity, score in frontier((s, y) for s, y in pairs if s > reference[0] and y > reference[1]):
        area += (sparsity - left) * (score - reference[1])
        left = sparsity
    return area


def by_seed(results: Iterable[Result]) -> dict[str, dict[int, Pairs]]:
    """Technique -> seed -> (sparsity, score) of the finished sparse runs of one task; none where all diverged.

    The seed is `Result.replicate`. Networks of one setting that keep the zeros of one run are one pair: a frontier over
    them would be that of the luckiest. In their mean score those that diverged have the worst score (`worst_score`).
    """
    results = list(results)
    finished = [result for result in results if result.finished]
    worst = worst_score(metric_of(results), [result.score for result in finished]) if finished else 0.0
    cells: dict[tuple[str, int, str], list[Result]] = {}
    for result in results:
        if not result.dense:
            cells.setdefault((result.name, result.replicate, result.group), []).append(result)
    found: dict[str, dict[int, Pairs]] = {}
    for (name, seed, _), runs in cells.items():
        # A seed that only diverged is a seed that reaches no level: without it the others would be the lucky ones.
        pairs = found.setdefault(name, {}).setdefault(seed, [])
        if any(result.finished for result in runs):
            sparsity = fmean(result.sparsity or 0.0 for result in runs if result.finished)
            pairs.append((sparsity, fmean(result.score if result.finished else worst for result in runs)))
    return found


def at_levels(results: Iterable[Result], levels: Iterable[float]) -> list[tuple[str, float, int, float]]:
    """The score of each technique's frontier at each level, by seed: the rows of `tournament`, of one task.

    A technique is left out at a level that one of its seeds does not reach: the others may be the lucky ones.
    """
    rows = []
    techniques = by_seed(results)
    for level in levels:
        for name, seeds in techniques.items():
            read = {seed: score_at(pairs, level) for seed, pairs in seeds.items()}
            if None not in read.values():
                rows += [(name, level, seed, score) for seed, score in read.items() if score is not None]
    return rows


def difference(
    ours: Mapping[int, Iterable[tuple[float, float]]],
    theirs: Mapping[int, Iterable[tuple[float, float]]],
    sparsity: float,
    *,
    metric: Metric | None = None,
) -> Difference | None:
    """How much more `ours` scores than `theirs` at one sparsity, seed by seed; None without a seed to compare.

    Each seed's two frontiers are read at ``sparsity``: seeds share data order and initial weights, so pairing removes
    what they have in common. Seeds that one of the two lacks, or whose frontier does not reach ``sparsity``, are left
    out.

    Args:
        ours: Seed -> (sparsity, score) pairs.
        theirs: The same of the technique to compare with.
        sparsity: The level, 0-1.
        metric: That of the scores.
    """
    a, b = ({seed: score_at(pairs, sparsity) for seed, pairs in side.items()} for side in (ours, theirs))
    both = {seed: (a[seed], b[seed]) for seed in a.keys() & b.keys()}
    read = {seed: (x, y) for seed, (x, y) in both.items() if x is not None and y is not None}
    if not read:
        return None
    return paired({seed: x for seed, (x, _) in read.items()}, {seed: y for seed, (_, y) in read.items()}, metric=metric)
