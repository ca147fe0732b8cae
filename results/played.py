"""The final runs of the small study that `mnist/PLAN.md` planned, from `mnist/study`, and how figures are written."""

from collections.abc import Iterable, Sequence
from functools import cache
from statistics import fmean

from levels import reaches as level_reached
from seeds import RESULTS, markdown, rows

from openwork.study.experiments.tournament import SEEDS
from openwork.study.results.claims import ALPHA
from openwork.study.results.paired import Difference

STUDY = RESULTS / "mnist" / "study"
COMMAND = "python results/mnist/run.py results/mnist/study --runs runs --device cuda --precision tf32 --seconds 540"
Found = dict[str, str]


def not_run(parts: str) -> str:
    """What a table says whose parts of the plan have no rows yet."""
    return f"Not run yet: `{COMMAND} --parts {parts}`."


@cache
def held(file: str) -> list[Found]:
    """The rows of a file of the study; none where its runs have not begun."""
    return rows(str(STUDY), file) if (STUDY / f"{file}.csv").exists() else []


def accuracy(row: Found) -> float:
    """A run's; 0 of one that diverged."""
    return float(row["accuracy"]) if row["accuracy"] else 0.0


def errors(found: Iterable[Found]) -> tuple[float, ...]:
    """100 % less the accuracies."""
    return tuple(100 * (1 - accuracy(row)) for row in found)


def sparsities(found: Iterable[Found]) -> tuple[float, ...]:
    """In %."""
    return tuple(100 * float(row["sparsity"] or 0) for row in found)


@cache
def finals(file: str = "tournament") -> dict[tuple[str, float], list[Found]]:
    """The final runs by technique and level, each with all its seeds, in their order."""
    found: dict[tuple[str, float], list[Found]] = {}
    for row in held(file):
        found.setdefault((row["technique"], float(row["level"])), []).append(row)
    complete = len(SEEDS) if file == "tournament" else 1
    return {key: sorted(runs, key=lambda row: int(row["seed"])) for key, runs in found.items() if len(runs) >= complete}


def reaches(runs: Sequence[Found], level: float) -> bool:
    """Whether the mean sparsity of final runs reaches the level, with the slack of the plan."""
    return level_reached(fmean(sparsities(runs)) / 100, level)


def by_seed(runs: Iterable[Found]) -> dict[int, float]:
    """Accuracies by seed."""
    return {int(row["seed"]): accuracy(row) for row in runs}


def apart(difference: Difference | None) -> str:
    """How much more or less error, with the 95 % interval: ``+0.03 (−0.01 to +0.07)``."""
    assert difference is not None
    values = [-100 * difference.mean, *sorted(-100 * end for end in difference.interval() or ())]
    middle, *ends = map(signed, values)
    return f"{middle} ({' to '.join(ends)})" if ends else middle


def points(pair: Difference) -> str:
    """A difference of percentages with its 95 % interval."""
    values = [signed(value) for value in (pair.mean, *(pair.interval() or ()))]
    return f"{values[0]} ({values[1]} to {values[2]})" if len(values) == 3 else values[0]


def signed(value: float) -> str:
    """Two digits and a sign."""
    return f"{value:+.2f}".replace("-", "−")


def probability(p: float | None) -> str:
    """A p-value, with more digits where three would not tell on which side of 5 % it is."""
    if p is None:
        return "–"
    digits = next((digits for digits in range(3, 20) if round(p, digits) != ALPHA), 3)
    return "< 0.001" if p < 0.001 else f"{p:.{digits}f}"


def verdicts(levels: dict[float, tuple[Difference, float | None]]) -> str:
    """Where one's error is lower, higher, or neither is shown: ``lower at 98 and 99 %, undecided at 99.5 %``."""
    found: dict[str, list[str]] = {}
    for level, (difference, p) in levels.items():
        shown = p is not None and p < 0.05
        word = ("lower" if difference.mean > 0 else "higher") if shown else "undecided"
        found.setdefault(word, []).append(f"{100 * level:g}")
    return ", ".join(f"{word} at {listed(each)} %" for word, each in found.items())


PLAIN = {
    "magnitude, uniform": "uniform magnitude pruning",
    "magnitude, global ranking": "magnitude pruning with global ranking",
    "magnitude, Erdős–Rényi": "magnitude pruning with Erdős–Rényi",
    "magnitude": "magnitude pruning",
    "random": "random pruning",
    "random at the start, Erdős–Rényi": "random pruning at the start with Erdős–Rényi",
    "RigL, uniform": "uniform RigL",
    "RigL, Erdős–Rényi": "RigL with Erdős–Rényi",
    "lottery ticket, rewound": "rewound lottery ticket",
}


def plain(name: str) -> str:
    """A technique's name in a sentence."""
    return PLAIN.get(name, name)


def listed(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def cost_table() -> str:
    """What the rows of the study ran on."""
    lines = []
    for name in ("tuning", "tournament", "recipes", "section6", "lenet5"):
        runs = {row["id"]: row for row in held(name) if "@" not in row["id"]}.values()
        if not runs:
            lines.append((f"{name}.csv", "0", "not run yet", *[""] * 5))
            continue
        steps = sum(int(row["step"]) for row in runs) / 1e6
        widths = sorted({int(row["fleet"] or 1) for row in runs})
        where = ["; ".join(sorted({row[key] for row in runs})) for key in ("precision", "device", "torch", "commit")]
        lines.append(
            (
                f"{name}.csv",
                str(len(runs)),
                f"{steps:.1f}",
                " to ".join(map(str, dict.fromkeys((widths[0], widths[-1])))),
                *where,
            )
        )
    return markdown(("", "n", "million run-steps", "fleet", "products", "device", "torch", "commit"), lines)
