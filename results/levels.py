"""Which runs reach a level of sparsity: one rule for tuning, tables and choices, that of the plans."""

from math import isclose

SLACK = 1.05  # a run reaches a level with up to so many times the weights that the level leaves


def reaches(sparsity: float, level: float) -> bool:
    """Whether so many zeros leave at most 1.05 times the weights that the level leaves."""
    left, most = 1 - sparsity, SLACK * (1 - level)
    return left <= most or isclose(left, most)
