"""The metric that results have in common, and the score of those that found nothing."""

from collections.abc import Iterable

from openwork.study.evaluation.metric import Metric
from openwork.study.results.result import Result


def metric_of(results: Iterable[Result]) -> Metric:
    """The metric by which the results of one task, at least one, are judged.

    Raises:
        ValueError: If they are judged by different metrics or on different data, whose scores cannot be compared.
    """
    first, *others = results
    for other in others:
        if other.judged_on != first.judged_on:
            raise ValueError(
                f"run {first.id} of {first.task} is judged on {first.judged_on} data and run {other.id} on "
                f"{other.judged_on} data; compare those of one kind, and let the task's title say which"
            )
        if other.metric != first.metric:
            one, two = (metric.key for metric in (first.metric, other.metric))
            if one == two:
                one, two = (repr(metric) for metric in (first.metric, other.metric))
            raise ValueError(
                f"run {first.id} of {first.task} is judged by {one} and run {other.id} by {two}; keep them "
                "in two studies"
            )
    return first.metric


def worst_score(metric: Metric, scores: Iterable[float]) -> float:
    """The score of a run that diverged or found nothing.

    It is the metric's own worst score. Where the metric has none, because a squared error for example can be any
    number, it is the worst that was found: infinity would make every mean infinite.

    Args:
        metric: The task's.
        scores: Those of the task's finished runs.
    """
    return min(scores) if metric.worst_score is None else metric.worst_score
