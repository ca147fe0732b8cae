"""What differences allow to claim: "as good as" by two one-sided tests, and Holm's correction of many tests."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from openwork.study.evaluation.metric import Metric
from openwork.study.results.paired import Difference
from openwork.study.results.student import student_tail

ALPHA = 0.05
"""The chance of a wrong claim that is accepted: of each test alone, or of a whole family after `holm`."""


@dataclass(frozen=True)
class Equivalence:
    """Whether two settings differ by less than a margin: `as_good_as`.

    Args:
        difference: Between the two.
        margin: In the unit of the score.
        p_not_worse: One-sided p against "ours is worse by the margin or more"; alone it is the test of non-inferiority.
        p_not_better: One-sided p against "ours is better by the margin or more".
    """

    difference: Difference
    margin: float
    p_not_worse: float | None
    p_not_better: float | None

    @property
    def p(self) -> float | None:
        """That of the claim that the two differ by less than the margin: the larger of both."""
        return (
            None if self.p_not_worse is None or self.p_not_better is None else max(self.p_not_worse, self.p_not_better)
        )

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 90 % interval, which lies between −margin and margin exactly where ``p`` is below 0.05."""
        return self.difference.interval(1 - 2 * ALPHA)

    @property
    def not_worse(self) -> bool:
        """Whether ours is shown to be worse by less than the margin, if worse at all."""
        return self.p_not_worse is not None and self.p_not_worse < ALPHA

    @property
    def holds(self) -> bool:
        """Whether the two are shown to differ by less than the margin."""
        return self.p is not None and self.p < ALPHA


def as_good_as(difference: Difference, margin: float) -> Equivalence:
    """Whether two settings differ by less than `margin`: two one-sided tests at 5 % each.

    A difference that is not significant shows nothing: too few seeds give it, too. Here the claim has to be shown.
    Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15, 1987.

    Args:
        difference: `paired`.
        margin: The smallest difference that matters, in the unit of the score: 0.001 is a tenth of a point of accuracy.
            Choose it before the runs.

    Raises:
        ValueError: Unless the margin is a positive number, below 1 where the score is a fraction.
    """
    check_margin(margin, difference.metric)
    if difference.error is None:
        return Equivalence(difference, margin, None, None)
    mean, error, n = difference.mean, difference.error, difference.n
    return Equivalence(
        difference, margin, student_tail((mean + margin) / error, n), student_tail((margin - mean) / error, n)
    )


def check_margin(margin: float, metric: Metric | None) -> None:
    """Raises a ValueError for a margin that is no positive number, or that no difference of this metric can reach."""
    if not 0 < margin < math.inf:
        raise ValueError(f"margin must be a positive difference of scores, got {margin}")
    if metric is not None and metric.full is not None and margin >= 1:
        raise ValueError(
            f"margin must be below 1, as scores of {metric.key} are fractions, got {margin}; divide by 100"
        )


def holm(p_values: Sequence[float | None]) -> tuple[float | None, ...]:
    """The adjusted p of each test of a family: where those below 5 % are claimed, any is wrong with at most 5 %.

    With p in rising order, of m tests the i-th (from 1) is multiplied by m − i + 1, and none is less than the one
    before it. Holds however the tests depend on each other. Holm, "A simple sequentially rejective multiple test
    procedure", Scandinavian Journal of Statistics 6, 1979.

    Args:
        p_values: Of all tests of the family, also of those that nobody reports. None is a test that could not be made;
            it counts, as a p of 1 would.

    Raises:
        ValueError: For a p outside [0, 1].
    """
    if wrong := [p for p in p_values if p is not None and not 0 <= p <= 1]:
        raise ValueError(f"p must be in [0, 1], got {wrong[0]}; None stands for a test that could not be made")
    made = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(made):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p))
        adjusted[place] = highest
    return tuple(adjusted)
