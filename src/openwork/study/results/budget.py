"""Equal tuning budgets: what the best of n random settings can be expected to reach.

Comparing each technique's best of all settings rewards whoever tried more. The expected best of n settings drawn at
random asks what a budget of n runs buys: Dodge et al. 2019, "Show Your Work", arXiv:1909.03004, here without
replacement.
"""

from collections.abc import Iterable, Sequence

import numpy as np

TOLERANCE = 0.003
"""How far below a sparsity level a model may lie and still count as reaching it: the window in which the published
README picks its models (inferred; 0.0027 to 0.0034 fit)."""


def expected_best(scores: Sequence[float], n: int) -> float:
    """The expected maximum of ``n`` of ``scores``, drawn without replacement.

    With N scores in rising order the i-th (from 1) is the maximum of C(i-1, n-1) of the C(N, n) draws.

    Args:
        scores: One for each setting.
        n: The budget, from 1 to N.

    Raises:
        ValueError: Unless 1 <= n <= N.
    """
    if not 1 <= n <= len(scores):
        raise ValueError(f"a budget of {len(scores)} settings cannot give {n}; ask for 1 to {len(scores)}")
    ordered = np.sort(np.asarray(scores, dtype=float))
    return float(ordered @ _weights(len(scores), n))


def resampled_best(scores: Sequence[float], n: int, draws: int, generator: np.random.Generator) -> np.ndarray:
    """`expected_best` of bootstrap samples of the settings: ``len(scores)`` of them, drawn with replacement.

    Args:
        scores: One for each setting.
        n: The budget, from 1 to ``len(scores)``.
        draws: The number of samples.
        generator: Of random numbers.

    Returns:
        (draws,): one expected best for each sample.
    """
    values, counts = np.unique(np.asarray(scores, dtype=float), return_counts=True)
    # The chance that the best of n is among the k lowest of a sample; equal scores share their ranks.
    among = np.concatenate([[0.0], np.cumsum(_weights(len(scores), n))])
    ranks = generator.multinomial(len(scores), counts / len(scores), size=draws).cumsum(axis=1)
    best: np.ndarray = np.diff(among[ranks], axis=1, prepend=0.0) @ values
    return best


def _weights(size: int, n: int) -> np.ndarray:
    # Ratios of neighbours, from the largest down: the binomials themselves overflow at a few hundred settings.
    ranks = np.arange(size - 1, 0, -1)
    ratios = np.clip((ranks - n + 1) / ranks, 0, None)
    falling: np.ndarray = (n / size) * np.concatenate([[1.0], np.cumprod(ratios)])
    return falling[::-1]


def reaching(
    pairs: Iterable[tuple[float, float] | None], sparsity: float, *, worst: float = 0.0, tolerance: float = TOLERANCE
) -> list[float]:
    """One score for each setting: its own where it reaches ``sparsity`` within ``tolerance``, otherwise ``worst``.

    A run that diverged or stayed too dense has used its share of the budget and found nothing, so it is not dropped.

    Args:
        pairs: (sparsity, score) of each setting, None for a diverged run.
        sparsity: The level to reach, 0-1.
        worst: The score of a setting that does not reach it.
        tolerance: How far below the level still counts.
    """
    return [pair[1] if pair is not None and pair[0] >= sparsity - tolerance else worst for pair in pairs]


def budgets(size: int) -> list[int]:
    """Numbers of settings from 1 to ``size`` at which to draw a curve: all up to 10, then ten for each factor of 10."""
    spread = np.unique(np.round(np.geomspace(1, size, max(2, int(10 * np.log10(size)) + 1))).astype(int))
    return sorted({*range(1, min(size, 10) + 1), *(int(n) for n in spread)})
