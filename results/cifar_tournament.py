"""What the rows of the tournament on CIFAR-10 show: its table, its named comparisons, and each level in words."""

from collections.abc import Iterator
from functools import cache
from statistics import fmean

from played import Found, accuracy, by_seed, listed, plain, points, probability, reaches, signed, sparsities
from seeds import RESULTS, Row, markdown, mean, rows

from openwork.study.evaluation.metric import ACCURACY
from openwork.study.experiments.tournament_cifar10 import LEVELS, SEEDS, TICKET, contest
from openwork.study.results.claims import holm
from openwork.study.results.paired import Difference, paired

STUDY = RESULTS / "cifar10-tournament" / "study"
COMMAND = (
    "python results/cifar10-tournament/run.py results/cifar10-tournament/study --runs runs --device cuda "
    "--precision bf16 --seconds 540"
)
EARLY = 3
"""Seeds of part B; a row is there with these or with all."""
CHANCE = 0.1
REFERENCE, UNIFORM, STATIC = "magnitude, global ranking", "magnitude, uniform", "random at the start, Erdős–Rényi"
RIGL = "RigL, Erdős–Rényi"
NAMED = (
    (RIGL, STATIC),
    (REFERENCE, STATIC),
    (REFERENCE, "random"),
    *((name, REFERENCE) for name in ("SNIP", "GraSP", "SynFlow")),
    (RIGL, "RigL, uniform"),
    (REFERENCE, UNIFORM),
    ("AC/DC", REFERENCE),
    ("variational dropout", UNIFORM),
    (TICKET, REFERENCE),
)
"""The pairs of the plan's hypotheses H1 to H7."""
NAMED_LEVELS = (0.95, 0.98)
PUBLISHED = {
    RIGL: (93.6, 92.9, 91.8, None),
    STATIC: (92.9, 91.5, 89.0, None),
    REFERENCE: (93.6, 93.3, 92.3, None),
}
"""WRN-22-2, 250 epochs, lossless images, by the author of RigL (google-research/rigl, issue 8): accuracies by level.

How the zeros of pruning are spread is not said there.
"""

Key = tuple[str, float]
Tested = dict[tuple[str, str, float], tuple[Difference, float | None]]


@cache
def finals() -> dict[Key, list[Found]]:
    """The final runs by technique and level, in the order of their seeds: all of them, or those of part B."""
    found: dict[Key, list[Found]] = {}
    for row in rows(str(STUDY), "tournament") if (STUDY / "tournament.csv").exists() else ():
        found.setdefault((row["technique"], float(row["level"])), []).append(row)
    return {key: some for key, runs in found.items() if (some := _complete(runs))}


def _complete(runs: list[Found]) -> list[Found]:
    by_number = {int(row["seed"]): row for row in runs}
    seeds = SEEDS if by_number.keys() >= {*SEEDS} else SEEDS[:EARLY]
    return [by_number[seed] for seed in seeds] if by_number.keys() >= {*seeds} else []


def reached() -> dict[Key, list[Found]]:
    """Those whose mean sparsity reaches the level."""
    return {key: runs for key, runs in finals().items() if key[1] and reaches(runs, key[1])}


def has_begun() -> bool:
    """Whether there is something to compare."""
    return any((REFERENCE, level) in reached() for level in LEVELS)


def not_run() -> str:
    """What a table says that has no rows yet."""
    return f"Not run yet: `{COMMAND}`."


def scores(runs: list[Found]) -> dict[int, float]:
    """Accuracies by seed; chance of one that diverged."""
    return {seed: value or CHANCE for seed, value in by_seed(runs).items()}


def difference(one: Key, other: Key) -> Difference | None:
    """Of the seeds that both have; None where one does not reach the level."""
    if one not in reached() or other not in reached():
        return None
    ours, theirs = scores(reached()[one]), scores(reached()[other])
    shared = ours.keys() & theirs.keys()
    return paired({s: ours[s] for s in shared}, {s: theirs[s] for s in shared}, metric=ACCURACY)


def tested(pairs: list[tuple[str, str, float]]) -> Tested:
    """The differences of these pairs that can be made, with p corrected for all of them."""
    made = {pair: difference((pair[0], pair[2]), (pair[1], pair[2])) for pair in pairs}
    p = holm([found.p if found else None for found in made.values()])
    return {pair: (found, one) for (pair, found), one in zip(made.items(), p, strict=True) if found}


def named() -> Tested:
    """The primary family."""
    return tested([(one, other, level) for one, other in NAMED for level in NAMED_LEVELS])


def against_reference() -> Tested:
    """The secondary family: every technique at every level less the reference."""
    names = [name for name in contest().entrants if name not in ("dense", REFERENCE)]
    return tested([(name, REFERENCE, level) for name in names for level in LEVELS])


def named_by_pair() -> dict[tuple[str, str], dict[float, tuple[Difference, float | None]]]:
    """The primary family: pair -> level -> the difference by seed, and its corrected p."""
    found: dict[tuple[str, str], dict[float, tuple[Difference, float | None]]] = {}
    for (one, other, level), pair in named().items():
        found.setdefault((one, other), {})[level] = pair
    return found


def judged(level: float) -> dict[str, list[str]]:
    """The techniques of a level by their verdict; one that has fewer seeds than the reference with its n."""
    words: dict[str, list[str]] = {word: [] for word in MARKS}
    for (name, _, at), pair in against_reference().items():
        if at == level:
            words[verdict(*pair)].append(plain(name) + fewer(pair[0], level))
    return words


def fewer(difference: Difference, level: float, sign: str = " (n = {})") -> str:
    """How many seeds a difference from the reference has, where these are not all of the reference."""
    return sign.format(difference.n) if difference.n < len(reached()[REFERENCE, level]) else ""


def verdict(difference: Difference, p: float | None) -> str:
    """``better``, ``worse``, or ``not shown``."""
    return "not shown" if p is None or p >= 0.05 else "better" if difference.mean > 0 else "worse"


MARKS = {"better": "▲", "worse": "▼", "not shown": ""}


def table() -> str:
    """The accuracies of all techniques at all levels, beside what was published of another network."""
    if not has_begun():
        return not_run()
    found, lines = against_reference(), []
    if dense := finals().get(("dense", 0.0)):
        lines.append(("dense", str(len(dense)), f"{_accuracy(dense)}", *[""] * (len(LEVELS) - 1), "–"))
    for name in contest().entrants:
        runs = {level: finals().get((name, level)) for level in LEVELS}
        if name == "dense":
            continue
        cells = []
        for level, own in runs.items():
            pair = found.get((name, REFERENCE, level))
            if own is None:
                cells.append("–")
            elif (name, level) not in reached():
                cells.append(f"{_accuracy(own)} ({fmean(sparsities(own)):.1f} %)")
            else:
                cells.append(f"{_accuracy(own)} {MARKS[verdict(*pair)] if pair else ''}".strip())
        counts = sorted({len(own) for own in runs.values() if own})
        published = " / ".join(f"{value:g}" if value else "–" for value in PUBLISHED.get(name, ())) or "–"
        lines.append((name, " or ".join(map(str, counts)) or "0", *cells, published))
    levels = [f"{100 * level:g} %" for level in LEVELS]
    return markdown(("accuracy, %", "n", *levels, "WRN-22-2, 250 epochs, published, one figure each"), lines)


def _accuracy(runs: list[Found]) -> str:
    return mean(tuple(100 * (accuracy(row) or CHANCE) for row in runs))


def comparisons() -> str:
    """The primary family: differences of accuracies."""
    if not has_begun():
        return not_run()
    found, lines = named_by_pair(), []
    for one, other in NAMED:
        pairs = [found.get((one, other), {}).get(level) for level in NAMED_LEVELS]
        cells = [f"{points(percent(pair[0]))}, p {probability(pair[1])}: {verdict(*pair)}" if pair else "–"
                 for pair in pairs]  # fmt: skip
        n = " or ".join(sorted({str(pair[0].n) for pair in pairs if pair}))
        lines.append((f"{one} less {other}", n or "0", *cells))
    return markdown(("accuracy, points", "n", *(f"{100 * level:g} %" for level in NAMED_LEVELS)), lines)


def percent(difference: Difference) -> Difference:
    """A difference of accuracies in percent."""
    ours, theirs = (tuple(100 * score for score in scores) for scores in (difference.ours, difference.theirs))
    return Difference(difference.seeds, ours, theirs)


def levels_in_words() -> str:
    """What is shown at each level, and what is not, by name."""
    if not has_begun():
        return not_run()
    lines = []
    for level in LEVELS:
        if (REFERENCE, level) not in reached():
            continue
        own = {pair[0]: one for pair, one in against_reference().items() if pair[2] == level}
        shown = {
            word: [
                f"{plain(name)} ({signed(100 * one[0].mean)}{fewer(one[0], level, ', n = {}')})"
                for name, one in own.items()
                if verdict(*one) == word
            ]
            for word in MARKS
        }
        runs = reached()[REFERENCE, level]
        few = [
            f"{plain(name)}{less}"
            for name, one in own.items()
            if verdict(*one) == "worse" and (less := fewer(one[0], level))
        ]
        lines.append(
            f"* **{100 * level:g} %** (n = {len(runs)}): {plain(REFERENCE)} has {_accuracy(runs)} %; better, by "
            f"points: {', '.join(shown['better']) or 'none'}; not told from it: "
            f"{', '.join(shown['not shown']) or 'none'}; worse: {len(shown['worse'])} of {len(own)}"
            f"{f', among them {listed(few)}' if few else ''}."
        )
    return "\n".join(lines)


def shortly() -> Iterator[Row]:
    """What README says of the tournament."""
    there = [level for level in LEVELS if (REFERENCE, level) in reached()]
    if not there or ("dense", 0.0) not in finals():
        return
    found = against_reference()
    figures = [f"{_accuracy(reached()[REFERENCE, level])} % at {100 * level:g} %" for level in there]
    words = {
        name: {verdict(*found[name, REFERENCE, level]) if (name, REFERENCE, level) in found else "–" for level in there}
        for name in contest().entrants
        if name not in ("dense", REFERENCE)
    }
    better, worse = ([name for name, said in words.items() if said == {word}] for word in ("better", "worse"))
    named = listed([f"{plain(name)}{', trained twice' if name == TICKET else ''}" for name in better])
    text = (
        f"{plain(REFERENCE)} {', '.join(figures)} (dense: {_accuracy(finals()['dense', 0.0])} %); better at all of "
        f"these levels: {named or 'none'}; worse at all of them: {len(worse)} of {len(words)}"
    )
    counts = sorted({pair[0].n for pair in found.values()})
    what = "ResNet-20 on a JPEG copy of CIFAR-10, 8 epochs, each technique tuned with 8 runs"
    yield what, " or ".join(map(str, counts)), text, "[a tournament](results/cifar10-tournament/README.md)"
