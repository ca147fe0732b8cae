"""The independent repetitions of one setting: what n counts, what means are over, and what is paired.

Networks that keep the zeros of one run have these in common and are no independent repetitions, whatever their own
seeds are. So they count once, with their mean.
"""

from collections.abc import Callable, Iterable, Mapping
from statistics import fmean

from openwork.study.results.result import Result


def by_replicate(group: Iterable[Result]) -> dict[int, tuple[Result, ...]]:
    """The results of one group by `Result.replicate`: one for each, or several networks of one mask.

    Raises:
        ValueError: If two of them have the same seeds.
    """
    found: dict[int, dict[tuple[int, ...], Result]] = {}
    for result in group:
        twin = found.setdefault(result.replicate, {}).setdefault(result.seeds, result)
        if twin is not result:
            raise ValueError(
                f"runs {twin.id} and {result.id} are both {result.name} {result.settings} on {result.task} with seed "
                f"{result.seed}; say in the settings how they differ, or keep them in two studies"
            )
    return {replicate: tuple(results.values()) for replicate, results in found.items()}


def finished_replicates(group: Iterable[Result]) -> dict[int, tuple[Result, ...]]:
    """The same without the runs that diverged, and without replicates of which all did."""
    kept = {seed: tuple(r for r in results if r.finished) for seed, results in by_replicate(group).items()}
    return {replicate: results for replicate, results in kept.items() if results}


def replicate_means(
    replicates: Mapping[int, Iterable[Result]], value: Callable[[Result], float | None]
) -> dict[int, float]:
    """The mean value of each replicate's results; one of which none was measured is left out.

    Args:
        replicates: Results by replicate.
        value: Of a result; None where it was not measured.
    """
    measured = {seed: [v for r in results if (v := value(r)) is not None] for seed, results in replicates.items()}
    return {replicate: fmean(values) for replicate, values in measured.items() if values}


def mean_pairs(replicates: Mapping[int, Iterable[Result]]) -> dict[int, tuple[float, float]]:
    """The mean (sparsity, score) of each replicate's results.

    Args:
        replicates: Finished results by replicate.
    """
    scores = replicate_means(replicates, lambda result: result.score)
    sparsities = replicate_means(replicates, lambda result: result.sparsity)
    return {replicate: (sparsities.get(replicate, 0.0), score) for replicate, score in scores.items()}
