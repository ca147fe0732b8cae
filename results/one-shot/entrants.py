"""The techniques of PLAN.md, with their papers' settings."""

from collections.abc import Callable
from typing import Any

import openwork as ow

LEVELS = {"50 %": 0.5, "60 %": 0.6, "70 %": 0.7, "80 %": 0.8, "2:4": ow.NM(2, 4), "4:8": ow.NM(4, 8)}
SEEDS = (0, 1, 2)
FIRST = ("50 %", "70 %", "2:4")
"""The levels of the primary comparison."""


def _simple(kind: Callable[..., ow.MaskTechnique]) -> Callable[[float | ow.NM], ow.MaskTechnique]:
    """A technique at a sparsity, or with an n:m pattern."""

    def made(level: Any) -> ow.MaskTechnique:
        return kind(ow.OneShot(0.5), pattern=level) if isinstance(level, ow.NM) else kind(ow.OneShot(level))

    return made


ENTRANTS: dict[str, Callable[[Any], ow.MaskTechnique]] = {
    "random": _simple(ow.RandomPruning),
    "magnitude": _simple(ow.GradualMagnitude),
    "global magnitude": lambda level: ow.GradualMagnitude(ow.OneShot(level), allocation=ow.GlobalRanking()),
    "Wanda": _simple(ow.Wanda),
    "RIA": _simple(ow.RIA),
    "OWL": lambda level: ow.Wanda(ow.OneShot(level), allocation=ow.OWL()),
    "SparseGPT": _simple(ow.SparseGPT),
    "ADMM": _simple(ow.ADMM),
    "ALPS": _simple(ow.ALPS),
}
UNSTRUCTURED = ("global magnitude", "OWL")
"""Whose sparsities differ by matrix or block, so that n:m is not for them."""
BLIND = ("random", "magnitude", "global magnitude")
"""Who look at no sentence."""
SEEDLESS = BLIND[1:]
"""Whose result without `reconstruct` is the same for every seed."""
