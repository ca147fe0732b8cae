"""The tables of section 6 of the paper at a small scale: what a mask is worth without the training that found it."""

from functools import cache
from math import isclose
from statistics import fmean

from played import accuracy, apart, held, not_run, probability
from seeds import markdown, mean

from openwork.study.evaluation.metric import ACCURACY
from openwork.study.experiments.section6 import LEVELS as MASK_LEVELS
from openwork.study.results.claims import holm
from openwork.study.results.paired import Difference, paired

KINDS = (
    *("magnitude", "lottery ticket", "rewound to 120", "rewound to 600", "rewound to 2400", "scratch-e"),
    *("scratch-e, augmented", "scratch-b", "scratch-b, augmented", "shuffled ticket", "random mask"),
)
PAIRS = (
    *(("lottery ticket", other) for other in ("scratch-e", "scratch-b", "shuffled ticket")),
    *(("shuffled ticket", "random mask"), ("scratch-b", "scratch-e")),
    *(("rewound to 600", "lottery ticket"), ("magnitude", "lottery ticket")),
)


@cache
def by_mask(kind: str, level: float) -> dict[int, float]:
    """The mean accuracy over the replicas of each mask of section 6."""
    found: dict[int, list[float]] = {}
    for row in held("section6"):
        if row["kind"] == kind and isclose(float(row["level"]), level):
            found.setdefault(int(row["mask"]), []).append(accuracy(row))
    return {number: fmean(values) for number, values in sorted(found.items())}


def whole() -> bool:
    """Whether there are runs of every kind at every level."""
    return all(by_mask(kind, level) for kind in KINDS for level in MASK_LEVELS)


def section6_table() -> str:
    """The errors of each kind at each level, with the interval over masks."""
    if not whole():
        return not_run("D")
    lines = []
    for kind in KINDS:
        cells = [mean(tuple(100 * (1 - value) for value in by_mask(kind, level).values())) for level in MASK_LEVELS]
        lines.append((kind, f"{len(by_mask(kind, MASK_LEVELS[0]))} masks", *cells))
    return markdown(("error, %", "n", *(f"{100 * level:g} %" for level in MASK_LEVELS)), lines)


def section6_tests() -> dict[tuple[str, str], dict[float, tuple[Difference, float | None]]]:
    """The planned comparisons: pair -> level -> the difference over masks, and its corrected p."""
    pairs = {
        (pair, level): paired(by_mask(pair[0], level), by_mask(pair[1], level), metric=ACCURACY)
        for pair in PAIRS
        for level in MASK_LEVELS
    }
    p = dict(zip(pairs, holm([one.p for one in pairs.values()]), strict=True))
    return {pair: {level: (pairs[pair, level], p[pair, level]) for level in MASK_LEVELS} for pair in PAIRS}


def section6_comparisons() -> str:
    """They as a table: differences of errors."""
    if not whole():
        return not_run("D")
    lines = []
    for (one, other), levels in section6_tests().items():
        cells = [f"{apart(difference)}, p {probability(p)}" for difference, p in levels.values()]
        lines.append((f"{one} less {other}", f"{next(iter(levels.values()))[0].n} masks", *cells))
    return markdown(("error, points", "n", *(f"{100 * level:g} %" for level in MASK_LEVELS)), lines)
