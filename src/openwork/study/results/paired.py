"""Two settings compared seed by seed: the mean difference with Student's paired interval and p.

The runs of one seed have initial weights and batches in common, so that their difference has less noise than either.
Runs that keep another one's zeros are paired by the seed of that one (`Result.replicate`).
Which test answers which question: `docs/statistics.md`.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

from openwork.study.evaluation.metric import Metric
from openwork.study.results.replicates import by_replicate, replicate_means
from openwork.study.results.result import Result
from openwork.study.results.score import metric_of, worst_score
from openwork.study.results.student import student_factor, student_tail


@dataclass(frozen=True)
class Difference:
    """How much higher one setting scores than another, over the seeds that both have.

    With fewer than two seeds, or where all differences are equal, there is no spread to judge by: intervals and p are
    then None, and nothing is claimed.

    Args:
        seeds: In rising order.
        ours: The scores of the one, by seed.
        theirs: Those of the other.
        metric: Theirs, which says how a difference is written; None writes plain numbers.
        diverged: The seeds of which a run diverged and counts with the worst score.
    """

    seeds: tuple[int, ...]
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    metric: Metric | None = None
    diverged: tuple[int, ...] = ()

    @property
    def values(self) -> tuple[float, ...]:
        """Ours less theirs, by seed."""
        return tuple(a - b for a, b in zip(self.ours, self.theirs, strict=True))

    @property
    def n(self) -> int:
        """The number of seeds."""
        return len(self.seeds)

    @property
    def mean(self) -> float:
        """The mean difference."""
        return fmean(self.values)

    @property
    def equal(self) -> bool:
        """Whether all differences are the same number."""
        # 0.98 - 0.97 is not 0.97 - 0.96: without this, rounding would be taken for a tiny spread and give p = 0.
        rounding = 1e-12 * max(map(abs, (*self.ours, *self.theirs)))
        return max(self.values) - min(self.values) <= rounding

    @property
    def error(self) -> float | None:
        """The standard error of the mean, s / √n with the sample standard deviation s of the differences."""
        return None if self.equal else stdev(self.values) / math.sqrt(self.n)

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Student's interval of the mean difference: mean ± t((1 + confidence) / 2, n − 1) · s / √n."""
        if self.error is None:
            return None
        half = student_factor(self.n, confidence) * self.error
        return self.mean - half, self.mean + half

    @property
    def t(self) -> float | None:
        """Student's paired t, mean / (s / √n), with n − 1 degrees of freedom."""
        return None if self.error is None else self.mean / self.error

    @property
    def p(self) -> float | None:
        """The two-sided p: the chance of a t at least as far from 0 if the true mean difference is 0."""
        return None if self.t is None else 2 * student_tail(abs(self.t), self.n)

    @property
    def remark(self) -> str:
        """Why there is no interval, and which runs diverged; empty where there is nothing to say."""
        said = []
        if self.n == 1:
            said.append("one seed has no spread")
        elif self.equal:
            said.append(f"all {self.n} differences are equal: no spread was seen")
        if self.diverged:
            said.append(f"a run diverged of seed {_listed(self.diverged)} and counts with the worst score")
        return "; ".join(said)

    def __str__(self) -> str:
        """In points or the metric's unit, with the 95 % interval: ``+0.12 (+0.03 to +0.21), n = 20, p = 0.0123``."""
        write = self.metric.difference if self.metric else "{:+.3g}".format
        ends = self.interval()
        if ends is None:
            return f"{write(self.mean)}, n = {self.n} ({self.remark})"
        low, high = sorted(ends, key=self.metric.value if self.metric else float)
        remark = f" ({self.remark})" if self.remark else ""
        return f"{write(self.mean)} ({write(low)} to {write(high)}), n = {self.n}, p = {self.p:.3g}{remark}"


def paired(ours: Mapping[int, float], theirs: Mapping[int, float], *, metric: Metric | None = None) -> Difference:
    """How much higher `ours` scores than `theirs`, seed by seed.

    Student, "The probable error of a mean", Biometrika 6, 1908.

    Args:
        ours: Seed -> score.
        theirs: The same seeds' scores of the other.
        metric: That of the scores.

    Raises:
        ValueError: If one has seeds that the other lacks, if there are none, and for scores that are no finite numbers,
            or no fractions where the metric's scores are.
    """
    if ours.keys() != theirs.keys():
        lacks = (
            f"{who} lack seed {_listed(seeds)}"
            for who, seeds in (("ours", theirs.keys() - ours.keys()), ("theirs", ours.keys() - theirs.keys()))
            if seeds
        )
        raise ValueError(f"{' and '.join(lacks)}; pair runs of the same seeds")
    if not ours:
        raise ValueError("there is no seed to compare; give scores by seed")
    for scores in (ours, theirs):
        if wrong := [seed for seed, score in scores.items() if not math.isfinite(score)]:
            raise ValueError(
                f"the score of seed {_listed(wrong)} is {scores[wrong[0]]}; give a run that diverged the metric's "
                "worst score, or leave its seed out of both"
            )
        outside = [seed for seed, score in scores.items() if not 0 <= score <= 1]
        if outside and metric is not None and metric.full is not None:
            raise ValueError(
                f"scores of {metric.key} are fractions, got {scores[outside[0]]} of seed {outside[0]}; divide by 100"
            )
    seeds = tuple(sorted(ours))
    return Difference(seeds, tuple(ours[seed] for seed in seeds), tuple(theirs[seed] for seed in seeds), metric)


def paired_results(ours: Iterable[Result], theirs: Iterable[Result], *, worst: float | None = None) -> Difference:
    """How much higher the results of one setting score than those of another, seed by seed.

    A run that diverged counts with the worst score (`worst_score`), and the difference names its seed. Networks that
    keep the zeros of one run count under that run's seed, with their mean.

    Args:
        ours: The results of the one.
        theirs: Those of the other.
        worst: The worst score, where more runs of the task than these tell it.

    Raises:
        ValueError: As for `paired`; if the results of a side are of several settings or two have the same seeds; if
            the two sides are of different tasks or metrics; and if no run finished.
    """
    sides = [list(ours), list(theirs)]
    every = [result for side in sides for result in side]
    if not all(sides):
        raise ValueError("there is no result to compare; give those of two settings")
    metric = metric_of(every)
    if len(tasks := {result.task for result in every}) > 1:
        raise ValueError(f"results of one task can be compared, got {sorted(tasks)}; split them")
    for side in sides:
        if len(settings := {result.group: f"{result.name} {result.shared_settings}" for result in side}) > 1:
            raise ValueError(f"each side must be one setting, got {', '.join(settings.values())}; compare them in turn")
    finished = [result.score for result in every if result.finished]
    if not finished:
        raise ValueError("every run diverged; there is nothing to compare")
    lowest = worst_score(metric, finished) if worst is None else worst
    scores = [
        replicate_means(by_replicate(side), lambda result: result.score if result.finished else lowest)
        for side in sides
    ]
    if scores[0].keys() != scores[1].keys() and any(result.replicate != result.seed for result in every):
        ours_have, theirs_have = map(_listed, scores)
        raise ValueError(
            f"ours have seed {ours_have} and theirs {theirs_have}, where a network that keeps the zeros of another run "
            "has that run's seed; pair networks of the same runs"
        )
    found = paired(*scores, metric=metric)
    diverged = {result.replicate for result in every if not result.finished}
    return Difference(found.seeds, found.ours, found.theirs, metric, tuple(sorted(diverged)))


def _listed(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(seeds)))
