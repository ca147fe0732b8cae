"""What the rows of the tournament on CIFAR-10 show, by SciPy and without the scripts of results/."""

import csv
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np
from scipy import stats

from tests.study.study_claims import holm, p_of

FOLDER = Path(__file__).parents[2] / "results" / "cifar10-tournament"
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")
LEVELS = (0.8, 0.9, 0.95, 0.98)
DENSE = ("dense", 0.0)
UNIFORM, GLOBAL, RANDOM = "magnitude, uniform", "magnitude, global ranking", "random"
STATIC, TICKET = "random at the start, Erdős–Rényi", "lottery ticket, rewound"
RIGL, RIGL_UNIFORM = "RigL, Erdős–Rényi", "RigL, uniform"
EARLY = ("SNIP", "GraSP", "SynFlow")
ACDC, VD, L0, STR = "AC/DC", "variational dropout", "L0", "STR"
NAMED = (
    (RIGL, STATIC),
    *((GLOBAL, other) for other in (STATIC, RANDOM, UNIFORM)),
    *((name, GLOBAL) for name in EARLY),
    (RIGL, RIGL_UNIFORM),
    (ACDC, GLOBAL),
    (VD, UNIFORM),
    (TICKET, GLOBAL),
)


@cache
def table(name):
    with (FOLDER / "study" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@cache
def runs():
    """(technique, level) -> accuracies in %, seed by seed from 0 on, and those that reach their level."""
    found = defaultdict(dict)
    for row in table("tournament"):
        found[row["technique"], float(row["level"])][int(row["seed"])] = row
    assert all(sorted(own) == [0, 1, 2, 3, 4] for own in found.values())
    right = {
        key: np.array([100 * float(own[seed]["accuracy"] or 0.1) for seed in sorted(own)]) for key, own in found.items()
    }
    left = {key: 1 - np.mean([float(row["sparsity"]) for row in own.values()]) for key, own in found.items()}
    return right, {key for key in found if key[1] and left[key] <= 1.05 * (1 - key[1]) + 1e-9}


def zeros(name, level):
    """The mean sparsity of final runs, in %."""
    found = [row for row in table("tournament") if (row["technique"], float(row["level"])) == (name, level)]
    return 100 * np.mean([float(row["sparsity"]) for row in found])


def pair(one, other, level):
    """The accuracies of both, seed by seed."""
    ours, theirs = (runs()[0][name, level] for name in (one, other))
    return ours, theirs


def corrected(family):
    """The corrected p of those that can be compared; the others count, too."""
    made = {key for key in family if all((name, key[2]) in runs()[1] for name in key[:2])}
    p = holm({key: p_of(*pair(*key)) if key in made else 1.0 for key in family})
    return {key: p[key] for key in made}


@cache
def named():
    """(one, other, level) -> corrected p, of the pairs that the plan names."""
    return corrected([(*names, level) for names in NAMED for level in LEVELS[2:]])


@cache
def against_reference():
    """(technique, reference, level) -> corrected p."""
    names = {name for name, _ in runs()[0]} - {"dense", GLOBAL}
    return corrected([(name, GLOBAL, level) for name in sorted(names) for level in LEVELS])


def standing(level):
    """How many are compared at a level, who is shown to be better than the reference, and who is neither."""
    found = {key: p for key, p in against_reference().items() if key[2] == level}
    better = {key[0] for key, p in found.items() if p < 0.05 and np.subtract(*pair(*key)).mean() > 0}
    return len(found), better, {key[0] for key, p in found.items() if p >= 0.05}


def shown(*names, better):
    """Whether the first of a named pair is shown to be better, or worse, at both levels."""
    keys = [(*names, level) for level in LEVELS[2:]]
    return all(named()[key] < 0.05 and (np.subtract(*pair(*key)).mean() > 0) == better for key in keys)


def figure(values):
    return f"{values.mean():.2f} ± {stats.t.ppf(0.975, len(values) - 1) * stats.sem(values):.2f} %"


def of(one, other, level, *, signed=True):
    """How much more accuracy the one has: ``+2.83, +2.01 to +3.65``."""
    values = np.subtract(*pair(one, other, level))
    values = values if signed else abs(values.mean()) / values.mean() * values
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    write = "{:+.2f}" if signed else "{:.2f}"
    middle, low, high = (
        write.format(v).replace("-", "−") for v in (values.mean(), values.mean() - half, values.mean() + half)
    )
    return f"{middle}, {low} to {high}"


def both(one, other):
    """The same at 95 and 98 %."""
    return " and ".join(f"at {100 * level:g} % ({of(one, other, level)})" for level in LEVELS[2:])


def paragraph(word):
    (found,) = re.findall(rf"^(?:\* )?\*\*{word}\.\*\* (.*?)\n(?:\n|\* )", PAGE, re.M | re.S)
    return " ".join(found.split())
