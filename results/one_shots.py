"""The tables of the one-shot study, from the rows that `one-shot/run.py` writes by `one-shot/PLAN.md`."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from statistics import fmean, median

from played import listed, probability
from seeds import RESULTS, markdown, rows

from openwork.study.results.claims import as_good_as, holm
from openwork.study.results.paired import Difference, paired
from openwork.study.results.student import student_interval

STUDY = RESULTS / "one-shot" / "study"
LEVELS = ("50 %", "60 %", "70 %", "80 %", "2:4", "4:8")
FIRST = ("50 %", "70 %", "2:4")
SEEDS = (0, 1, 2)
TECHNIQUES = ("random", "magnitude", "global magnitude", "Wanda", "RIA", "OWL", "SparseGPT", "ADMM", "ALPS")
SEEDLESS = ("magnitude", "global magnitude")
MARGIN = 0.02
COMMAND = "python results/one-shot/run.py results/one-shot/study --language model --device cuda"
EARLIER = {
    ("random", "50 %"): "0.2407 / 0.187",
    ("random", "70 %"): "0.1821 / 0.167",
    ("magnitude", "50 %"): "0.7096 / 0.500",
    ("magnitude", "70 %"): "0.3935 / 0.297",
    ("magnitude", "2:4"): "0.5986 / 0.423",
    ("global magnitude", "50 %"): "0.7218 / 0.530",
    ("global magnitude", "70 %"): "0.3996 / 0.340",
    ("Wanda", "50 %"): "0.8598 / 0.670",
    ("Wanda", "70 %"): "0.6286 / 0.453",
    ("Wanda", "2:4"): "0.7373 / 0.553",
    ("RIA", "50 %"): "0.8612 / 0.677",
    ("RIA", "70 %"): "0.6199 / 0.403",
    ("RIA", "2:4"): "0.7324 / 0.547",
    ("SparseGPT", "50 %"): "0.8830 / 0.693",
    ("SparseGPT", "70 %"): "0.6698 / 0.500",
    ("SparseGPT", "2:4"): "0.8000 / 0.597",
}
"""Cosine and share of neighbours by other code, another machine, 96 calibration and 300 other sentences, one seed."""

Key = tuple[str, bool]  # a technique, and whether its weights were reconstructed
BySeed = dict[int, float]


@dataclass(frozen=True)
class Network:
    """How a network's rows are read and written.

    Args:
        file: The CSV file, without its ending.
        title: In sentences.
        measure: The column that is compared.
        sign: 1 where more is better, else -1.
        unit: Of differences.
    """

    file: str
    title: str
    measure: str
    sign: int
    unit: str


MINILM = Network("minilm", "MiniLM", "cosine", 1, "of cosine")
LANGUAGE = Network("language", "the language model", "loss", -1, "nats")


@cache
def held(file: str) -> list[dict[str, str]]:
    """The rows of a file of the study; none where its runs have not begun."""
    return rows(str(STUDY), file) if (STUDY / f"{file}.csv").exists() else []


@cache
def found(file: str, column: str) -> dict[tuple[Key, str], BySeed]:
    """A column by technique and level, each by seed. What needs no sentence counts for every seed that others have."""
    every: dict[tuple[Key, str], BySeed] = {}
    for row in held(file):
        key = (row["technique"], row["reconstruct"] == "yes"), row["level"]
        every.setdefault(key, {})[int(row["seed"])] = float(row[column])
    return every


def scores(network: Network, key: Key, level: str, seeds: Iterable[int] = SEEDS) -> BySeed:
    """The scores of a technique, more is better; of a technique that needs no sentence the same for all seeds."""
    by_seed = found(network.file, network.measure).get((key, level), {})
    if key[0] in SEEDLESS and not key[1] and by_seed:
        by_seed = dict.fromkeys(seeds, by_seed[SEEDS[0]])
    return {seed: network.sign * value for seed, value in by_seed.items()}


def difference(network: Network, ours: Key, theirs: Key, level: str) -> Difference | None:
    """How much better ours is, by the seeds that both have."""
    a, b = scores(network, ours, level), scores(network, theirs, level)
    both = a.keys() & b.keys()
    return paired({seed: a[seed] for seed in both}, {seed: b[seed] for seed in both}) if both else None


def pairs() -> list[tuple[str, Key, Key, str]]:
    """The comparisons of the plan: hypothesis, ours, theirs, level. They are one family of Holm's."""
    order = ("random", "magnitude", "Wanda", "SparseGPT", "ADMM")
    chain = [("H1", (b, False), (a, False), level) for a, b in pairwise(order) for level in FIRST]
    fitted = [
        ("H3", ours, theirs, level)
        for ours, theirs in (
            (("magnitude", True), ("magnitude", False)),
            (("Wanda", True), ("Wanda", False)),
            (("Wanda", True), ("SparseGPT", False)),
        )
        for level in LEVELS
    ]
    return [*chain, *fitted, *(("H4", ("ALPS", False), ("SparseGPT", False), level) for level in ("70 %", "80 %"))]


@dataclass(frozen=True)
class Compared:
    """A comparison of the plan with what the rows say."""

    hypothesis: str
    ours: Key
    theirs: Key
    level: str
    difference: Difference
    holm: float | None

    @property
    def verdict(self) -> str:
        """As the plan says: better or worse where all seeds agree and the interval excludes 0."""
        interval = self.difference.interval()
        if self.difference.n < len(SEEDS):
            return f"n = {self.difference.n}: no claim"
        values = self.difference.values
        if interval and interval[0] > 0 and min(values) > 0:
            return "better"
        if interval and interval[1] < 0 and max(values) < 0:
            return "worse"
        return "undecided"


def compared(network: Network) -> list[Compared]:
    """All comparisons of the plan that have rows."""
    every = [(*pair, difference(network, *pair[1:])) for pair in pairs()]
    adjusted = holm([each and each.p for *_, each in every])
    return [Compared(*pair, each, p) for (*pair, each), p in zip(every, adjusted, strict=True) if each]


def named(key: Key) -> str:
    """A technique in a table."""
    return f"{key[0]} + reconstruct" if key[1] else key[0]


def not_run(network: Network) -> str:
    """What a table says without rows."""
    return f"Not run yet: `{COMMAND} --parts {'ABC' if network is MINILM else 'DEFG'}`."


def spread(by_seed: BySeed, write: Callable[[float], str]) -> str:
    """The mean, with half of the 95 % interval."""
    values = tuple(by_seed.values())
    interval = student_interval(values)
    return write(fmean(values)) + (f" ± {write((interval[1] - interval[0]) / 2)}" if interval else "")


def perplexity(by_seed: BySeed) -> str:
    """The exponential of the mean loss, and of its interval's ends."""
    values = tuple(by_seed.values())
    interval = student_interval(values)
    ends = f" ({' to '.join(f'{math.exp(end):.1f}' for end in interval)})" if interval else ""
    return f"{math.exp(fmean(values)):.1f}{ends}"


def by_level(network: Network, column: str, write: Callable[[BySeed], str]) -> str:
    """A table of techniques and levels."""
    cells = found(network.file, column)
    if not cells:
        return not_run(network)
    lines = []
    for key in [("dense", False), *((name, fitted) for name in TECHNIQUES for fitted in (False, True))]:
        own = {level: cells[key, level] for level in ("0 %", *LEVELS) if (key, level) in cells}
        if not own:
            continue
        counts = sorted({len(by_seed) for by_seed in own.values()})
        n = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
        if key[0] == "dense":
            lines.append(("dense", n, *[write(own["0 %"])] * len(LEVELS)))
        else:
            lines.append((named(key), n, *(write(own[level]) if level in own else "–" for level in LEVELS)))
    return markdown(("", "n", *LEVELS), lines)


def picture(network: Network) -> str:
    """A link to what `draw_one_shots.py` draws."""
    text = "Mean cosines" if network is MINILM else "Perplexities"
    return f"![{text} of all techniques]({network.file}.png)" if held(network.file) else not_run(network)


def cosine_table() -> str:
    """MiniLM: mean cosines."""
    return by_level(MINILM, "cosine", lambda by_seed: spread(by_seed, "{:.4f}".format))


def neighbours_table() -> str:
    """MiniLM: shares of neighbours, in %."""

    def percent(share: float) -> str:
        return f"{100 * share:.1f}"

    return by_level(MINILM, "neighbours", lambda by_seed: spread(by_seed, percent))


def perplexity_table() -> str:
    """The language model: perplexities."""
    return by_level(LANGUAGE, "loss", perplexity)


def comparisons(network: Network) -> str:
    """The plan's comparisons with intervals and p-values."""
    every = compared(network)
    if not every:
        return not_run(network)
    lines = []
    for one in every:
        interval = one.difference.interval()
        ends = f" ({' to '.join(map(signed, interval))})" if interval else ""
        name = f"{named(one.ours)} − {named(one.theirs)}"
        lines.append((one.hypothesis, name, one.level, str(one.difference.n), signed(one.difference.mean) + ends,
                      probability(one.holm), one.verdict))  # fmt: skip
    gain = "more cosine" if network is MINILM else "less loss, nats"
    return markdown(("", "ours − theirs", "level", "n", f"{gain} (95 %)", "p, Holm", "ours is"), lines)


def signed(value: float) -> str:
    """Four digits and a sign."""
    return f"{value:+.4f}".replace("-", "−")


def earlier_table() -> str:
    """MiniLM beside another measurement."""
    cosines, shares = found("minilm", "cosine"), found("minilm", "neighbours_300")
    lines = []
    for (name, level), other in EARLIER.items():
        key = (name, False), level
        if key in cosines:
            ours = " / ".join(
                f"{fmean(table[key].values()):.{digits}f}" for table, digits in ((cosines, 4), (shares, 3))
            )
            lines.append((name, level, f"{len(cosines[key])}, 1", ours, other))
    return markdown(("", "level", "n", "here", "there"), lines) if lines else not_run(MINILM)


def cost_table() -> str:
    """Seconds and memory of pruning at 50 %, by network and processor: of a GPU the clock's, else the processor's."""
    lines = []
    for network in (MINILM, LANGUAGE):
        groups: dict[tuple[Key, str], list[dict[str, str]]] = {}
        for row in held(network.file):
            if row["level"] == "50 %" and row["processor_seconds"]:
                where = row["processor"] + ("" if row["device"] == "cuda" else f", threads: {row['threads']}")
                groups.setdefault(((row["technique"], row["reconstruct"] == "yes"), where), []).append(row)
        for (key, where), some in sorted(groups.items(), key=lambda group: (group[0][1], rank(group[0][0]))):
            seconds = [float(row["seconds" if row["device"] == "cuda" else "processor_seconds"]) for row in some]
            ends = f" ({min(seconds):.1f} to {max(seconds):.1f})" if len(some) > 1 else ""
            memory = max(float(row["memory_mb"]) for row in some)
            lines.append((network.title, named(key), where, str(len(some)), f"{median(seconds):.1f}{ends}",
                          f"{memory:.0f}"))  # fmt: skip
    heads = ("network", "technique", "on", "n", "seconds, median and range", "MB more than before, at most")
    return markdown(heads, lines) if lines else not_run(MINILM)


def rank(key: Key) -> int:
    """Of a technique in tables."""
    return 2 * TECHNIQUES.index(key[0]) + key[1]


def conditions_table() -> str:
    """What the rows were measured on."""
    lines = []
    for file in ("minilm", "training", "language"):
        some = held(file)
        if some:
            cells = ["; ".join(sorted({row[name] for row in some}))
                     for name in ("processor", "threads", "torch", "commit", "model")]  # fmt: skip
            lines.append((f"{file}.csv", str(len(some)), *cells))
    heads = ("", "n", "processor", "threads", "torch", "commit", "hash of the dense matrices")
    return markdown(heads, lines) if lines else not_run(MINILM)


def findings() -> str:
    """What was decided, sentence by sentence."""
    return "\n".join(line for network in (MINILM, LANGUAGE) for line in said(network))


def said(network: Network) -> list[str]:
    """The findings on a network."""
    every = compared(network)
    if not every:
        return [f"* On {network.title} nothing has been run yet."]
    lines = [f"* H{number} on {network.title}. {sentence}." for number, sentence in (
        (1, claimed([one for one in every if one.hypothesis == "H1"])),
        (2, equal(network)),
        (3, claimed([one for one in every if one.hypothesis == "H3"])),
        (4, claimed([one for one in every if one.hypothesis == "H4"])),
    ) if sentence]  # fmt: skip
    return [*lines, *(f"* {line}." for line in by_means(network))]


def claimed(some: Sequence[Compared]) -> str:
    """Which of the comparisons came out: by pair the levels of each verdict."""
    words: dict[tuple[Key, Key], dict[str, list[str]]] = {}
    for one in some:
        word = "one seed, no claim" if one.difference.n == 1 else one.verdict
        words.setdefault((one.ours, one.theirs), {}).setdefault(word, []).append(one.level)
    n = max((one.difference.n for one in some), default=0)
    parts = [
        f"{named(ours)} against {named(theirs)}: " + ", ".join(f"{word} at {listed(at)}" for word, at in own.items())
        for (ours, theirs), own in words.items()
    ]
    return "; ".join(parts) + f" (n = {n})" if parts else ""


def equal(network: Network) -> str:
    """H2: whether RIA and Wanda are shown to differ by less than the margin."""
    parts = []
    for level in FIRST:
        each = difference(network, ("RIA", False), ("Wanda", False), level)
        if each is None:
            continue
        test = as_good_as(each, MARGIN)
        word = "one seed, no claim" if each.n == 1 else "shown" if test.holds else "not shown"
        parts.append(f"at {level} {word} (difference {signed(each.mean)}, n = {each.n})")
    unit = network.unit
    return f"RIA as good as Wanda within {MARGIN:g} {unit}: " + ", ".join(parts) if parts else ""


def by_means(network: Network) -> list[str]:
    """All techniques in the order of their means at a level, without claims."""
    lines = []
    for level in FIRST:
        own: Mapping[Key, float] = {
            (name, fitted): fmean(by_seed.values())
            for name in TECHNIQUES
            for fitted in (False, True)
            if (by_seed := scores(network, (name, fitted), level, SEEDS[:1]))
        }
        counts = {len(found(network.file, network.measure)[key, level]) for key in own if key[0] not in SEEDLESS}
        if not counts:
            continue
        n = " to ".join(str(each) for each in sorted({min(counts), max(counts)}))
        order = sorted(own, key=lambda key: own[key])
        shown = ", ".join(f"{named(key)} {abs(own[key]):.3f}" for key in order)
        lines.append(f"Means on {network.title} at {level}, from the worst on (n = {n}): {shown}")
    return lines


TABLES: dict[str, Callable[[], str]] = {
    "one-shot, findings": findings,
    "one-shot, picture of MiniLM": lambda: picture(MINILM),
    "one-shot, picture of the language model": lambda: picture(LANGUAGE),
    "one-shot, cosine": cosine_table,
    "one-shot, neighbours": neighbours_table,
    "one-shot, perplexity": perplexity_table,
    "one-shot, comparisons on MiniLM": lambda: comparisons(MINILM),
    "one-shot, comparisons on the language model": lambda: comparisons(LANGUAGE),
    "one-shot, earlier": earlier_table,
    "one-shot, cost": cost_table,
    "one-shot, conditions": conditions_table,
}
