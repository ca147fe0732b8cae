"""The tables of docs/choose.md: which technique to take, from the rows of the studies, and what a step costs."""

from statistics import median

import cifar_tournament
import one_shots
from kept import lines_of
from played import apart, errors, finals, listed, not_run, plain
from seeds import RESULTS, markdown, mean
from tournaments import compared, has_begun, undecided, with_verdict

from openwork.study.experiments.tournament_cifar10 import LEVELS as CIFAR_LEVELS

SIMPLE = "magnitude, Erdős–Rényi"
ONE_SHOT = ("magnitude", "Wanda", "RIA", "SparseGPT", "ADMM", "ALPS")
_FOLDER = RESULTS.parent / "benchmarks" / "measured"
MEASURED = tuple(_FOLDER / f"training-{name}.csv" for name in ("h200", "h200-variational", "h200-again"))


def while_training() -> str:
    """For each level of LeNet-300-100 what was best, what else may be taken, and what the simple choice costs."""
    if not has_begun():
        return not_run("AB")
    dense, lines = mean(errors(finals()["dense", 0.0])), []
    for level in compared().levels:
        first = next(one for one in level.standings if one.technique == level.reference)
        simple = next((one for one in level.standings if one.technique == SIMPLE), None)
        others = [plain(one.technique) for one in (*with_verdict(level, "better"), *undecided(level))]
        own = mean(errors(finals()[level.reference, level.level]))
        less = "the same" if first is simple else apart(simple.difference) if simple else "misses the level"
        cells = (f"{100 * level.level:g} %", str(first.n), plain(first.technique), f"{own} %")
        lines.append((*cells, listed(others) or "nothing", less))
    heads = ("zeros", "n", "best on validation data", f"its test error (dense: {dense} %)", "not shown to be worse")
    return markdown((*heads, f"{plain(SIMPLE)} instead, points of error"), lines)


def of_a_residual_network() -> str:
    """For each level of ResNet-20 what is shown to be better than magnitude pruning, and what is not told from it."""
    if not cifar_tournament.has_begun():
        return cifar_tournament.not_run()
    lines = []
    for level in CIFAR_LEVELS:
        if (runs := cifar_tournament.reached().get((cifar_tournament.REFERENCE, level))) is None:
            continue
        words = cifar_tournament.judged(level)
        cells = ["; ".join(words[word]) or "nothing" for word in ("better", "not shown")]
        lines.append((f"{100 * level:g} %", str(len(runs)), f"{mean(errors(runs))} %", *cells))
    heads = ("zeros", "n", f"error of {plain(cifar_tournament.REFERENCE)}", "shown to be better", "not told from it")
    return markdown(heads, lines)


def without_training() -> str:
    """MiniLM pruned once: how near it stays to the dense model, and what that takes."""
    cosines, lines = one_shots.found("minilm", "cosine"), []
    for key in ((name, fitted) for name in ONE_SHOT for fitted in (False, True)):
        levels = [cosines.get((key, level)) for level in one_shots.FIRST]
        if not any(levels):
            continue
        timed = [
            float(row["seconds"])
            for row in one_shots.held("minilm")
            if (row["technique"], row["reconstruct"] == "yes", row["level"], row["device"]) == (*key, "50 %", "cuda")
        ]
        counts = sorted({len(by_seed) for by_seed in levels if by_seed})
        written = [one_shots.spread(by_seed, "{:.3f}".format) if by_seed else "–" for by_seed in levels]
        time = f"{median(timed):.1f}" if timed else "–"
        lines.append((one_shots.named(key), " or ".join(map(str, counts)), *written, time))
    if not lines:
        return one_shots.not_run(one_shots.MINILM)
    return markdown(("", "n", *one_shots.FIRST, "seconds at 50 %"), lines)


def of_a_step() -> str:
    """Time and memory of a training step beside dense, by technique and model, with n, the machine's GPU and torch."""
    lines: dict[tuple[str, str], tuple[str, ...]] = {}
    for path in MEASURED:
        rows = lines_of(path, ("variant", "unit", "values", "n", "processor", "torch"), ("variant", "unit"))
        found = {(row["variant"], row["unit"]): median(map(float, row["values"].split())) for row in rows}
        for row in rows:
            model, _, name = row["variant"].rpartition(": ")
            dense = [found.get((f"{model}: dense", unit)) for unit in ("ms a step", "GiB")]
            own = [found.get((row["variant"], unit)) for unit in ("ms a step", "GiB")]
            if row["unit"] == "ms a step" and not name.startswith(("dense", "naive")) and all(dense) and all(own):
                time, memory = (f"{a / b:.2f}" for a, b in zip(own, dense, strict=True) if a and b)
                line = (model, name, row["n"], time, memory, f"{row['processor']}, torch {row['torch']}")
                lines.setdefault((model, name), line)  # of the first run that has it
    models = list(dict.fromkeys(model for model, _ in lines))
    return markdown(
        ("model", "technique", "n", "time × dense", "memory × dense", "on"),
        sorted(lines.values(), key=lambda line: models.index(line[0])),
    )


TABLES = {
    "choose, while training": while_training,
    "choose, a residual network": of_a_residual_network,
    "choose, without training": without_training,
    "choose, a step": of_a_step,
}
