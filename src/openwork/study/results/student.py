"""Student's t: where a mean lies, and where one more value would lie."""

import math
from collections.abc import Sequence
from functools import cache
from statistics import fmean, stdev
from types import ModuleType

from openwork.study.evaluation.metric import Metric


def student_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the mean of `values`, or None for fewer than two.

    mean ± t(0.975, n − 1) · s / √n with the sample standard deviation s (n − 1 in its denominator);
    it is not cut at 0 or 1. Student, "The probable error of a mean", Biometrika 6, 1908.
    """
    if len(values) < 2:
        return None
    mean = fmean(values)
    half = student_factor(len(values)) * stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def prediction_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Where one more value would lie with a probability of 95 %, or None for fewer than two values.

    mean ± t(0.975, n − 1) · s · √(1 + 1/n). A single published run is compared with this interval and not with that of
    the mean: it has the whole spread of a run.
    """
    if len(values) < 2:
        return None
    mean = fmean(values)
    half = student_factor(len(values)) * stdev(values) * math.sqrt(1 + 1 / len(values))
    return mean - half, mean + half


def may_be_one_more(value: float, values: Sequence[float]) -> bool:
    """Whether a single published run lies where one more of these values would with 95 % (`prediction_interval`).

    If so, chance alone can explain that it differs from them.

    Raises:
        ValueError: For fewer than two values.
    """
    interval = prediction_interval(values)
    if interval is None:
        raise ValueError(f"{len(values)} seed has no interval; compare nothing with it")
    return interval[0] <= value <= interval[1]


def bounded_interval(scores: Sequence[float], metric: Metric | None) -> tuple[float, float] | None:
    """The 95 % Student interval of the mean score, which holds no score that the metric cannot have.

    Where `student_interval` would leave [0, 1], it is that of the log odds of the mean m, by the delta method:
    logit(m) ± t · s / (√n · m (1 − m)). With m at 0 or 1 all scores are equal, and the interval is m.

    Args:
        scores: One for each seed.
        metric: Theirs; one without bounds has Student's interval.
    """
    found = student_interval(scores)
    if found is None or metric is None or metric.full is None or (found[0] >= 0 and found[1] <= 1):
        return found
    mean = fmean(scores)
    if not 0 < mean < 1:
        return mean, mean
    half = (found[1] - found[0]) / 2 / (mean * (1 - mean))
    odds = math.log(mean / (1 - mean))
    return _from_log_odds(odds - half), _from_log_odds(odds + half)


def _from_log_odds(odds: float) -> float:
    # Of the two forms the one whose exponential is at most 1.
    return 1 / (1 + math.exp(-odds)) if odds >= 0 else math.exp(odds) / (1 + math.exp(odds))


@cache
def student_factor(n: int, confidence: float = 0.95) -> float:
    """t((1 + confidence) / 2, n − 1), the factor of the interval of a mean of n values; n is at least 2."""
    return float(_special().stdtrit(n - 1, (1 + confidence) / 2))


def student_tail(t: float, n: int) -> float:
    """The chance that Student's t of n values, at least 2, exceeds ``t`` where their true mean is 0."""
    return float(_special().stdtr(n - 1, -t))


def _special() -> ModuleType:
    try:
        from scipy import special  # for one number ten times as fast as scipy.stats
    except ImportError as error:
        raise ImportError('intervals need scipy: pip install "openwork[study]"') from error
    found: ModuleType = special
    return found
