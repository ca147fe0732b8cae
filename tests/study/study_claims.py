"""What the rows of the small study show, by SciPy and without the scripts of results/."""

import csv
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np
from scipy import stats

from openwork.study.published.rows import table as published

MNIST = Path(__file__).parents[2] / "results" / "mnist"
PAGE = (MNIST / "README.md").read_text(encoding="utf-8")
LEVELS = (0.5, 0.75, 0.9, 0.95, 0.98, 0.985, 0.99, 0.995)
UNIFORM, GLOBAL, ERK = "magnitude, uniform", "magnitude, global ranking", "magnitude, Erdős–Rényi"
VD, L0, DENSE = "variational dropout", "L0", ("dense", 0.0)
GROUPS, SHARED = "group L0", "soft weight sharing"
NAMED = ((VD, UNIFORM), (VD, GLOBAL), (GLOBAL, UNIFORM), (ERK, UNIFORM))
TICKET, SHUFFLED = "lottery ticket", "shuffled ticket"
PAIRS = (
    *((TICKET, other) for other in ("scratch-e", "scratch-b", SHUFFLED)),
    *((SHUFFLED, "random mask"), ("scratch-b", "scratch-e"), ("rewound to 600", TICKET), ("magnitude", TICKET)),
)


@cache
def table(name):
    with (MNIST / "study" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@cache
def runs():
    """(technique, level) -> errors in %, by seed, and the mean fraction of weights that are left."""
    found = defaultdict(list)
    for row in table("tournament"):
        found[row["technique"], float(row["level"])].append(row)
    found = {key: sorted(rows, key=lambda row: int(row["seed"])) for key, rows in found.items() if len(rows) == 20}
    wrong = {key: np.array([100 - 100 * float(row["accuracy"] or 0) for row in rows]) for key, rows in found.items()}
    left = {key: 1 - np.mean([float(row["sparsity"]) for row in rows]) for key, rows in found.items()}
    return wrong, {key for key in found if key[1] and left[key] <= 1.05 * (1 - key[1]) + 1e-9}


@cache
def masks():
    """(kind, level) -> errors in %, means over the replicas of each mask."""
    found = defaultdict(lambda: defaultdict(list))
    for row in table("section6"):
        found[row["kind"], float(row["level"])][int(row["mask"])].append(100 - 100 * float(row["accuracy"] or 0))
    return {key: np.array([np.mean(own[mask]) for mask in sorted(own)]) for key, own in found.items()}


def holm(p):
    order = sorted((value, key) for key, value in p.items())
    corrected = np.maximum.accumulate([min(1, (len(p) - rank) * value) for rank, (value, _) in enumerate(order)])
    return {key: value for (_, key), value in zip(order, corrected, strict=True)}


def p_of(ours, theirs):
    return stats.ttest_rel(ours, theirs).pvalue


@cache
def references():
    reached = runs()[1]
    found = defaultdict(list)
    for row in table("chosen"):
        if (key := (row["technique"], float(row["level"]))) in reached:
            found[key[1]].append((float(row["accuracy"]), key[0]))
    return {level: max(each)[1] for level, each in found.items()}


@cache
def against_references():
    """(technique, level) -> corrected p."""
    wrong, reached = runs()
    return holm({k: p_of(wrong[k], wrong[references()[k[1]], k[1]]) for k in reached if k[0] != references()[k[1]]})


def standing(level):
    """The reference of a level, and who is shown to be better, worse, and neither."""
    wrong, _ = runs()
    reference, found = references()[level], {"better": set(), "worse": set(), "open": set()}
    for (name, at), p in against_references().items():
        if at == level:
            less = wrong[name, at].mean() < wrong[reference, at].mean()
            found["open" if p >= 0.05 else "better" if less else "worse"].add(name)
    return reference, found["better"], found["open"]


@cache
def named():
    """The corrected p of the pairs that the plan names; what could not be compared counts, too."""
    wrong, reached = runs()
    keys = [(pair, level) for pair in NAMED for level in LEVELS[4:]]
    made = {(pair, level) for pair, level in keys if {(pair[0], level), (pair[1], level)} <= reached}
    p = {key: p_of(wrong[key[0][0], key[1]], wrong[key[0][1], key[1]]) if key in made else 1.0 for key in keys}
    return {key: value for key, value in holm(p).items() if key in made}


@cache
def about_masks():
    return holm({(pair, level): p_of(masks()[pair[0], level], masks()[pair[1], level])
                 for pair in PAIRS for level in (0.8, 0.9, 0.95, 0.98)})  # fmt: skip


def shown(pair, *, lower):
    """The levels at which the first of a pair of kinds is shown to have less error, or more."""
    means = {level: np.mean(masks()[pair[0], level] - masks()[pair[1], level]) for level in (0.8, 0.9, 0.95, 0.98)}
    return [level for level, mean in means.items() if about_masks()[pair, level] < 0.05 and (mean < 0) == lower]


def as_good_as_dense(margin):
    wrong, reached = runs()
    p = {}
    for key in reached:
        apart = wrong[key] - wrong[DENSE]
        t = [(margin + sign * apart.mean()) / stats.sem(apart) for sign in (1, -1)]
        p[key] = max(stats.t.sf(t, len(apart) - 1))
    return {key for key, value in holm(p).items() if value < 0.05}


def better_than_dense():
    wrong, reached = runs()
    p = holm({key: p_of(wrong[key], wrong[DENSE]) for key in reached})
    return {key for key, value in p.items() if value < 0.05 and wrong[key].mean() < wrong[DENSE].mean()}


def figure(values):
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{values.mean():.2f} ± {half:.2f} %"


def apart(ours, theirs, *, signed=True):
    """``−0.17, −0.23 to −0.12``; unsigned, how much more error theirs has."""
    values = ours - theirs if signed else theirs - ours
    low, high = stats.ttest_1samp(values, 0).confidence_interval()
    plus = "+" if signed else ""
    middle, *ends = (f"{value:{plus}.2f}".replace("-", "−") for value in (values.mean(), low, high))
    return f"{middle}, {' to '.join(ends)}"


def of(ours, theirs, level, **how):
    wrong, _ = runs()
    return apart(wrong[ours, level], wrong[theirs, level], **how)


def of_masks(ours, theirs, level, **how):
    return apart(masks()[ours, level], masks()[theirs, level], **how)


SEEDS = {"LeNet-300-100": 20, "LeNet-5-Caffe": 10}


@cache
def recipe(clip, drawn, threshold=3, net="LeNet-300-100"):
    """Sparsities and errors in % of SparseVD's recipe with these two settings, by seed."""
    rows = [
        row
        for row in table("recipes")
        if (row["net"], row["train_clip"], row["lasagne"]) == (net, str(clip), str(drawn))
        and float(row["threshold"]) == threshold
    ]
    rows.sort(key=lambda row: int(row["seed"]))
    assert len(rows) == SEEDS[net]
    return np.array(
        [[100 * float(row["sparsity"]) for row in rows], [100 - 100 * float(row["accuracy"]) for row in rows]]
    )


PUBLISHED = {
    net: {
        (by.split()[0], float(row["threshold"])): (100 * float(row["sparsity"]), 100 - 100 * float(row["accuracy"]))
        for row in published("mnist")
        for by in [row["by"]]
        if row["model"] == net and row["threshold"]
    }
    for net in SEEDS
}


def one_more(values):
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) * (1 + 1 / len(values)) ** 0.5
    return values.mean() - half, values.mean() + half


def inside(clip, drawn, of, net="LeNet-300-100"):
    """The published runs whose sparsity (0) or error (1) lies where one more run would."""
    found = set()
    for key, values in PUBLISHED[net].items():
        low, high = one_more(recipe(clip, drawn, key[1], net)[of])
        found |= {key} if low <= values[of] <= high else set()
    return found


def pairs_of(net):
    """(setting, the other one, of what) -> the values with and without the setting."""
    return {
        (name, other, of): [
            recipe(*(value, other)[:: 1 if name == "train_clip" else -1], 3, net)[of] for value in (True, False)
        ]
        for name in ("train_clip", "lasagne")
        for other in (True, False)
        for of in (0, 1)
    }


@cache
def effects():
    """(setting, the other one, of what) -> the values with and without the setting, and the corrected p."""
    pairs = pairs_of("LeNet-300-100")
    p = holm({key: p_of(*pair) for key, pair in pairs.items()})
    return {key: (*pair, p[key]) for key, pair in pairs.items()}


def effect(of, drawn, net="LeNet-300-100"):
    """What `train_clip` adds: ``0.94 (0.91 to 0.97)``."""
    on, off = pairs_of(net)["train_clip", drawn, of]
    return "{} ({})".format(*apart(off, on, signed=False).split(", "))


def of_weights(clip):
    """What the recipe's initial weights change of LeNet-5-Caffe's zeros: ``−0.02 (−0.04 to −0.01)``."""
    return "{} ({})".format(*apart(*pairs_of("LeNet-5-Caffe")["lasagne", clip, 0]).split(", "))


def paragraph(word):
    (found,) = re.findall(rf"^(?:\* )?\*\*{word}\.\*\* (.*?)\n(?:\n|\* )", PAGE, re.M | re.S)
    return " ".join(found.split())
