"""What a sceptical reader of the small study should know, from its rows: missed levels, edges of the grids, spreads."""

from collections.abc import Iterator
from statistics import fmean, stdev

from played import errors, finals, held, listed, not_run, plain, reaches, sparsities
from tournaments import has_begun

from openwork.study.experiments.tournament import ENTRANTS, SEEDS

SPARSER = 0.9  # of the weights that the level leaves: below it, a technique is compared at another sparsity
WIDE = 1.0  # points: a standard deviation over seeds that Student's t hardly describes
INTERVALS = ("magnitude, uniform", "magnitude, global ranking", "magnitude, Erdős–Rényi", "random", "movement")
"""What they try are intervals of pruning, which have no edge."""
BROKEN = 0.9  # validation accuracy of a setting that was chosen for want of a better one


def caveats() -> str:
    """A list."""
    return "\n".join(f"* {sentence}" for sentence in sentences()) if has_begun() else not_run("AB")


def sentences() -> Iterator[str]:
    """They."""
    runs = {key: found for key, found in finals().items() if key[1]}
    missed = [key for key, found in runs.items() if not reaches(found, key[1])]
    yield f"Levels that final runs miss, and where they are not compared (n = {len(SEEDS)}): {at(missed, runs)}."
    yield less()
    sparser = [k for k, found in runs.items() if 1 - fmean(sparsities(found)) / 100 < SPARSER * (1 - k[1])]
    yield (
        f"Compared at a clearly higher sparsity than their level, with less than {100 * SPARSER:g} % of its weights: "
        f"{at(sparser, runs)}."
    )
    yield from edges()
    broken = [row for row in held("chosen") if float(row["accuracy"]) < BROKEN]
    text = by_technique([(row["technique"], float(row["level"]), "") for row in broken])
    yield f"Settings whose tuning run had a validation accuracy below {100 * BROKEN:g} %: {text}."
    spread = [(*key, f" ({stdev(errors(found)):.1f})") for key, found in runs.items() if stdev(errors(found)) > WIDE]
    yield (
        f"Standard deviations over seeds above {WIDE:g} point, where Student's t is rough (in points): "
        f"{by_technique(spread)}."
    )
    every = [row for name in ("tuning", "tournament", "section6", "recipes", "lenet5") for row in held(name)]
    diverged = sum(row["status"] == "diverged" for row in every)
    lost = {(row["technique"], float(row["level"])) for found in runs.values() for row in found
            if float(row["accuracy"] or 0) < 0.2}  # fmt: skip
    worst = by_technique([(name, level, "") for name, level in sorted(lost)]) or "none"
    yield f"Of {len(every):,} rows {diverged} diverged. Final runs with an error above 80 %: {worst}."


def at(keys: list[tuple[str, float]], runs: dict[tuple[str, float], list[dict[str, str]]]) -> str:
    """Techniques with levels and the mean sparsities there."""
    return by_technique([(*key, f" ({fmean(sparsities(runs[key])):.1f})") for key in keys]) or "none"


def by_technique(found: list[tuple[str, float, str]]) -> str:
    """``A at 50 and 75 %; B at 90 %`` of (technique, level, remark)."""
    names = dict.fromkeys(name for name, *_ in found)
    levels = {name: [f"{100 * level:g}{text}" for n, level, text in found if n == name] for name in names}
    return "; ".join(f"{plain(name)} at {listed(each)} %" for name, each in levels.items())


def less() -> str:
    """How the sparsities of final runs lie to those of their tuning runs, where a penalty decides."""
    names = ("variational dropout", "L0", "group L0", "soft weight sharing")
    pairs = [
        (float(row["sparsity"]), fmean(sparsities(finals()[key])) / 100)
        for row in held("chosen")
        for key in [(row["technique"], float(row["level"]))]
        if row["technique"] in names and key in finals()
    ]
    fewer = [100 * (tuned - final) for tuned, final in pairs if final < tuned]
    text = f", by {min(fewer):.2f} to {max(fewer):.2f} points" if fewer else ""
    return (
        f"Final runs of {listed(names)} have fewer zeros than the tuning run that chose their settings in {len(fewer)} "
        f"of {len(pairs)} cases{text}."
    )


def edges() -> Iterator[str]:
    """How often what was chosen lies at the edge of what was tried."""
    chosen = [row for row in held("chosen") if row["technique"] != "dense"]
    lowest, highest = (
        sum(row["rate"] == f"{end(ENTRANTS[row['technique']].rates):.6g}" for row in chosen) for end in (min, max)
    )
    outer = [
        (row["technique"], float(row["level"]), f" ({first:g})")
        for row in chosen
        for first in [float(row["option"].split()[0])]
        for tried in [{option[0] for option in ENTRANTS[row["technique"]].options}]
        if row["technique"] not in INTERVALS and first in (min(tried), max(tried))
    ]
    yield (
        f"At the edge of what was tried: of {len(chosen)} choices {highest} have the highest of three learning rates "
        f"and {lowest} the lowest; the interval, the step, the threshold or the penalty is the outermost of "
        f"{by_technique(outer) or 'none'}."
    )
