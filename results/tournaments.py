"""The tables of the tournament on LeNet-300-100, and of the small one on LeNet-5-Caffe."""

from collections.abc import Iterator
from functools import cache
from statistics import fmean

from played import (
    accuracy,
    apart,
    by_seed,
    errors,
    finals,
    held,
    listed,
    not_run,
    plain,
    probability,
    reaches,
    sparsities,
)
from seeds import Row, markdown, mean

from openwork.study.evaluation.metric import ACCURACY
from openwork.study.experiments.tournament import ENTRANTS, LENET5_LEVELS, LEVELS, SEEDS
from openwork.study.results.claims import as_good_as, holm
from openwork.study.results.paired import Difference, paired
from openwork.study.results.tournament import Level, Standing, Tournament, tournament

MARGIN, WIDE = 0.0004, 0.001  # of accuracy: 0.04 and 0.1 points
NAMED = (
    ("variational dropout", "magnitude, uniform"),
    ("variational dropout", "magnitude, global ranking"),
    ("magnitude, global ranking", "magnitude, uniform"),
    ("magnitude, Erdős–Rényi", "magnitude, uniform"),
)
NAMED_LEVELS = (0.98, 0.985, 0.99, 0.995)
PARTS = {"soft weight sharing": "F"}  # of the plan; the others are part B
MARKS = {"reference": "★", "better": "▲", "as good as": "≈", "equal": "≈", "worse": "▼", "undecided": ""}


def has_begun() -> bool:
    """Whether there is the dense network and something to compare."""
    return ("dense", 0.0) in finals() and any(level and reaches(runs, level) for (_, level), runs in finals().items())


def missing() -> tuple[str, ...]:
    """The techniques without final runs."""
    return tuple(name for name in ENTRANTS if not any(technique == name for technique, _ in finals()))


@cache
def compared(margin: float = MARGIN) -> Tournament:
    """The tournament; the reference of a level is the best on validation data of those that are compared there."""
    scores = [
        (technique, level, int(row["seed"]), accuracy(row))
        for (technique, level), runs in finals().items()
        if level and reaches(runs, level)
        for row in runs
    ]
    there = {(technique, level) for technique, level, _, _ in scores}
    choices = [row for row in held("chosen") if (row["technique"], float(row["level"])) in there]
    best: dict[float, tuple[float, str]] = {}
    for row in choices:
        level, found = float(row["level"]), (float(row["accuracy"]), row["technique"])
        best[level] = max(best.get(level, found), found)
    reference = {level: name for level, (_, name) in best.items()}
    return tournament(scores, margin=margin, reference=reference, metric=ACCURACY)


def standings() -> dict[tuple[str, float], tuple[Level, Standing]]:
    """The standing of each technique at each level."""
    return {(one.technique, level.level): (level, one) for level in compared().levels for one in level.standings}


def with_verdict(level: Level, word: str) -> list[Standing]:
    """The standings whose verdict begins so."""
    return [one for one in level.standings if one.verdict.startswith(word)]


def undecided(level: Level) -> list[Standing]:
    """Those that are shown to be neither better nor worse than the reference."""
    return [one for one in level.standings if one.verdict in ("as good as", "equal", "undecided")]


def every_level() -> str:
    """The errors of all techniques at all levels."""
    if not has_begun():
        return not_run("AB")
    places = standings()
    lines = []
    dense = finals()["dense", 0.0]
    lines.append(("dense", str(len(dense)), f"{mean(errors(dense))} %", *[""] * (len(LEVELS) - 1)))
    for name in ENTRANTS:
        cells, n = [], 0
        for level in LEVELS:
            if (runs := finals().get((name, level))) is None:
                cells.append("–")
                continue
            n = len(runs)
            found = places.get((name, level))
            mark = MARKS[found[1].verdict.partition(",")[0]] if found else f"({fmean(sparsities(runs)):.1f} %)"
            cells.append(f"{mean(errors(runs))} {mark}".strip())
        if name in missing():
            lines.append((name, "0", "not run yet", *[""] * (len(LEVELS) - 1)))
        elif name != "dense":
            lines.append((name, str(n), *cells))
    table = markdown(("", "n", *(f"{100 * level:g} %" for level in LEVELS)), lines)
    parts = "".join(sorted({PARTS.get(name, "B") for name in missing()}))
    return f"{table}\n\n{listed(missing())}: {not_run(parts)}" if parts else table


def leaders() -> str:
    """For each level the reference, what is not shown to be worse, and the lowest mean on the test set."""
    if not has_begun():
        return not_run("AB")
    lines = []
    for level in compared().levels:
        by_name = {one.technique: one for one in level.standings}
        reference = by_name[level.reference]
        better, worse = with_verdict(level, "better"), with_verdict(level, "worse")
        lines.append(
            (
                f"{100 * level.level:g} %",
                str(reference.n),
                f"{reference.technique}, {100 * (1 - reference.mean):.2f} %",
                "; ".join(f"{one.technique} {apart(one.difference)}" for one in better) or "none",
                "; ".join(f"{one.technique} {apart(one.difference)}" for one in undecided(level)) or "none",
                str(len(worse)),
                f"{level.standings[0].technique}, {100 * (1 - level.standings[0].mean):.2f} %",
            )
        )
    heads = ("level", "n", "best on validation data: test error", "shown to be better", "undecided or as good", "worse")
    return markdown((*heads, "lowest mean, no test"), lines)


def named_tests() -> dict[tuple[str, str], dict[float, tuple[Difference, float | None]]]:
    """The comparisons that the plan names: pair -> level -> the difference by seed, and its corrected p."""
    there = [
        (pair, level)
        for pair in NAMED
        for level in NAMED_LEVELS
        if all((name, level) in finals() and reaches(finals()[name, level], level) for name in pair)
    ]
    pairs = {
        ((one, other), level): paired(by_seed(finals()[one, level]), by_seed(finals()[other, level]), metric=ACCURACY)
        for (one, other), level in there
    }
    # What could not be made counts in the family, too.
    p = holm([pair.p for pair in pairs.values()] + [None] * (len(NAMED) * len(NAMED_LEVELS) - len(pairs)))
    found: dict[tuple[str, str], dict[float, tuple[Difference, float | None]]] = {}
    for ((pair, level), difference), value in zip(pairs.items(), p, strict=False):
        found.setdefault(pair, {})[level] = difference, value
    return found


def named_table() -> str:
    """They as a table: differences of errors."""
    if not has_begun():
        return not_run("AB")
    lines = []
    for (one, other), levels in named_tests().items():
        found = [levels.get(level) for level in NAMED_LEVELS]
        cells = [f"{apart(each[0])}, p {probability(each[1])}" if each else "–" for each in found]
        lines.append((f"{one} less {other}", str(len(SEEDS)), *cells))
    return markdown(("error, points", "n", *(f"{100 * level:g} %" for level in NAMED_LEVELS)), lines)


def against_dense() -> dict[tuple[str, float], Difference]:
    """Every technique at every level that it reaches less the dense network of its seed, in accuracy."""
    dense = by_seed(finals()["dense", 0.0])
    return {
        key: paired(by_seed(runs), dense, metric=ACCURACY)
        for key, runs in finals().items()
        if key[1] and reaches(runs, key[1])
    }


def as_good_as_dense() -> dict[float, dict[tuple[str, float], bool]]:
    """For each margin whether a technique at a level is shown to be as good as the dense network of its seed."""
    pairs, found = against_dense(), {}
    for margin in (MARGIN, WIDE):
        p = holm([as_good_as(pair, margin).p for pair in pairs.values()])
        found[margin] = {key: one is not None and one < 0.05 for key, one in zip(pairs, p, strict=True)}
    return found


def better_than_dense() -> dict[tuple[str, float], Difference]:
    """The techniques and levels whose accuracy is shown to be higher than dense, which the plan did not foresee."""
    pairs = against_dense()
    p = holm([pair.p for pair in pairs.values()])
    shown = zip(pairs.items(), p, strict=True)
    return {key: pair for (key, pair), one in shown if one is not None and one < 0.05 and pair.mean > 0}


def dense_table() -> str:
    """At which levels each technique is shown to be as good as dense, or better."""
    if not has_begun():
        return not_run("AB")
    found, better, lines = as_good_as_dense(), better_than_dense(), []
    for name in list(ENTRANTS)[1:]:
        if name in missing():
            continue
        cells = []
        for keys in (*([key for key, holds in found[margin].items() if holds] for margin in (MARGIN, WIDE)), better):
            shown = [f"{100 * level:g}" for technique, level in keys if technique == name]
            cells.append(f"{', '.join(shown)} %" if shown else "none")
        lines.append((name, str(len(SEEDS)), *cells))
    heads = ("", "n", "as good as dense within 0.04 points at", "within 0.1 points at")
    return markdown((*heads, "not planned: better than dense at"), lines)


def lenet5_table() -> str:
    """The small tournament of LeNet-5-Caffe."""
    if not finals("lenet5"):
        return not_run("G")
    lines = []
    for name in dict.fromkeys(technique for technique, _ in finals("lenet5")):
        levels = (0.0,) if name == "dense" else LENET5_LEVELS
        found = [finals("lenet5").get((name, level)) for level in levels]
        cells = [f"{mean(errors(runs))} ({fmean(sparsities(runs)):.1f} %)" if runs else "–" for runs in found]
        n = max((len(runs) for runs in found if runs), default=0)
        lines.append((name, str(n), *cells, *[""] * (len(LENET5_LEVELS) - len(cells))))
    return markdown(("error, % (sparsity)", "n", *(f"{100 * level:g} %" for level in LENET5_LEVELS)), lines)


def shortly() -> Iterator[Row]:
    """What README says of the tournament."""
    if not has_begun():
        return
    dense = mean(errors(finals()["dense", 0.0]))
    best = [
        f"{plain(level.reference)} {mean(errors(finals()[level.reference, level.level]))} % at {100 * level.level:g} %"
        for level in compared().levels
        if level.level in (0.75, 0.9, 0.985) and not with_verdict(level, "better")
    ]
    others = len(ENTRANTS) - 1 - len(missing())
    text = f"best on validation data, and none of {others} shown to be better: {', '.join(best)} (dense: {dense} %)"
    what = "all techniques on LeNet-300-100, each tuned with 60 runs"
    yield what, str(len(SEEDS)), text, "[the tournament](results/mnist/README.md#the-tournament)"
