"""The tables of the large half: scores and differences with their n and intervals, and what has not been run yet."""

from collections.abc import Iterable
from itertools import product

import large_study as large
from large_plan import progress
from large_rows import SEEDS, cells, chosen_beyond, number
from large_study import (
    BOTH,
    KEPT,
    LAYOUTS,
    LONG,
    LONGEST,
    NARROW,
    SHORT,
    VD,
    WEIGHTS,
    Compared,
    Scores,
    at,
    families,
    of_masks,
    points_of,
    rows,
    runs_at,
    scores,
    sparser,
    zeros_at,
)
from played import points as written
from played import probability
from seeds import markdown, mean
from seeds import rows as of_study

from openwork.study.experiments import large_resnet50, large_transformer
from openwork.study.experiments.cifar10_resnet import SPARSITIES
from openwork.study.experiments.scratch import SCHEMES
from openwork.study.experiments.transformer import SPARSITIES as SEVEN
from openwork.study.results.claims import ALPHA

IN_FULL = {"magnitude": "magnitude pruning", "random": "random pruning"}
TOLERANCES = {"cifar10-resnet50": 1.0, "translation": 0.5, "cifar10": 1.0, "mnist": 0.3}
"""Of a row that is run again."""


def not_run(parts: str) -> str:
    """What a table says whose parts of the plan have not enough rows yet."""
    return f"Not enough runs yet of {'part' if len(parts) == 1 else 'parts'} {' and '.join(parts)}."


def left_table() -> str:
    """How many runs each part of the plan has, and how many of them have a row, n."""
    lines = [
        (part, "; ".join(experiments), str(planned), str(done))
        for part, (experiments, planned, done) in progress(large.STUDY).items()
    ]
    return markdown(("part", "experiments", "planned", "n"), lines)


def verdict(one: Compared) -> str:
    """``▲`` or ``▼`` where a difference is shown, ``≈`` where the two are shown to be as good."""
    if one.difference is not None and one.p is not None and one.p < ALPHA:
        return "▲" if one.difference.mean > 0 else "▼"
    return "≈" if one.as_good else ""


def comparisons(name: str, parts: str, only: str = "") -> str:
    """The differences of a family with 95 % intervals and Holm's p; a row for each label, a column for each level.

    Args:
        name: Of the family.
        parts: Of the plan, whose rows it needs.
        only: The beginning of the labels to show; p is over all of the family.
    """
    every = [one for one in families()[name] if one.label.startswith(only)]
    if not any(one.difference for one in every):
        return not_run(parts)
    levels = sorted({one.level for one in every})
    lines = []
    for label in dict.fromkeys(one.label for one in every):
        own = {one.level: one for one in every if one.label == label}
        n = sorted({one.difference.n for one in own.values() if one.difference})
        alone = max(one.alone for one in own.values() if one.difference) if n else 0
        texts = [
            f"{written(one.difference)}, p {probability(one.p)} {verdict(one)}".strip()
            if one and one.difference
            else "–"
            for one in map(own.get, levels)
        ]
        counted = " or ".join(map(str, n)) or "0"
        lines.append((label, f"{counted}; up to {alone} without a partner" if alone else counted, *texts))
    unit = "BLEU" if name.startswith(BOTH) or name == "regularisation" else "points"
    return markdown((unit, "n", *(_level(level) for level in levels)), lines)


def shortly() -> list[tuple[str, str, str, str]]:
    """What README says: the techniques that have a figure at two levels of a network, and the differences shown."""
    resnet = f"ResNet-50 on a JPEG copy of CIFAR-10, {large_resnet50.EPOCHS} epochs"
    words = "a small Transformer, En-De, on 5 % of WMT14's pairs, BLEU on newstest2014"
    unlike = "; L0 and variational dropout have no binary dropout, one coefficient of the latter was added after test "
    unlike += "figures, and seed 0 of the others is of older rows"
    lines = []
    for what, experiment, family, levels, names, unit, how in (
        (resnet, SHORT, "ResNet-50", (0.9, 0.98), ("magnitude", VD, "random"), " %", ""),
        (words, BOTH, BOTH, (0.7, 0.95), ("magnitude", "random", "L0", VD), "", unlike),
    ):
        dense = at(experiment, "dense", 0.0)
        for level in levels:
            own = {name: found for name in names if (found := at(experiment, name, level))}
            means = [
                f"{IN_FULL.get(name, name)}{_sparser(experiment, name, level)} {mean(tuple(found.values()))}{unit}"
                for name, found in own.items()
            ]
            made = [one for one in families()[family] if one.level == level and one.difference]
            differ = [(one.label, one.difference) for one in made if verdict(one) in ("▲", "▼") and one.difference]
            shown = "; ".join(f"{label} {written(difference)}" for label, difference in differ)
            text = f" ({f'shown: {shown}' if shown else 'no difference shown'})" if made else ""
            figure = f"{', '.join(means)}{text}; dense {mean(tuple(dense.values()))}{unit}{how}"
            place = "[the large half](results/large/README.md)"
            lines.append((f"{what}: {_level(level)} zeros", counts([dense, *own.values()]), figure, place))
    return lines


def _sparser(experiment: str, name: str, level: float) -> str:
    """The sparsity in brackets where a technique that is not told it has more zeros than the level."""
    return "".join(f" ({100 * zeros:.1f} % zeros)" for zeros in sparser(experiment, [name], level).values())


def counts(own: Iterable[Scores]) -> str:
    """How many seeds or masks are behind each of several figures: ``3``, or ``3 or 5``."""
    return " or ".join(map(str, sorted({len(found) for found in own if found})))


def by_level(experiment: str, names: Iterable[str], levels: Iterable[float], parts: str) -> str:
    """Scores of techniques at levels, with half of the 95 % interval of each mean."""
    levels = list(levels)
    lines = []
    for name in names:
        own = [at(experiment, name, level) for level in ((0.0,) if name == "dense" else levels)]
        if any(own):
            texts = [mean(tuple(found.values())) if found else "–" for found in own]
            lines.append((name, counts(own), *texts, *[""] * (len(levels) - len(texts))))
    unit = "BLEU" if experiment.startswith(BOTH) else "accuracy, %"
    return markdown((unit, "n", *map(_level, levels)), lines) if lines else not_run(parts)


def zeros_table(experiment: str, names: Iterable[str], levels: Iterable[float], parts: str) -> str:
    """The mean sparsity of the runs of techniques that are not told theirs, for each level."""
    levels = list(levels)
    lines = []
    for name in names:
        if any(found := [runs_at(experiment, name, level) for level in levels]):
            zeros = [zeros_at(experiment, name, level) for level in levels]
            texts = ["–" if one is None else f"{100 * one:.1f}" for one in zeros]
            lines.append((name, counts(map(scores, found)), *texts))
    return markdown(("sparsity, %", "n", *map(_level, levels)), lines) if lines else not_run(parts)


def settings_table() -> str:
    """Every coefficient of the Transformer with three seeds; of variational dropout at some of its thresholds.

    The rows of the threshold of training, 3, have none in their column.
    """
    lines, named = [], {"L0": "–", VD: "3"}
    own = [row for row in rows() if row["experiment"] == BOTH]
    for name, weights in WEIGHTS.items():
        for weight, threshold in product(weights, ("0", "0.5", "1", "") if name == VD else ("",)):
            key = name, f"{weight:g}", threshold
            cell = {int(row["seed"]): row for row in own if (row["technique"], row["setting"], row["threshold"]) == key}
            if len(cell) >= SEEDS:
                zeros, right = ([100 * number(row, of) for row in cell.values()] for of in ("sparsity", "validation"))
                # Where another threshold of a model has more zeros and as good an accuracy nothing was translated.
                whole = all(row["bleu"] or row["status"] == "diverged" for row in cell.values())
                figures = mean(tuple(zeros)), mean(tuple(right)), mean(tuple(scores(cell).values())) if whole else "–"
                lines.append((name, f"{weight:g}", threshold or named[name], str(len(cell)), *figures))
    heads = ("", "coefficient · N", "threshold", "n", "sparsity, %", "accuracy on newstest2013, %", "BLEU")
    return markdown(heads, lines) if lines else not_run("F")


def layouts_table() -> str:
    """The 2 x 2 of layout and length, with dense and variational dropout at both."""
    lines = []
    for name, experiment, technique in (*LAYOUTS, ("dense", SHORT, "dense"), ("dense", LONG, "dense")):
        levels = (0.0,) if name == "dense" else large_resnet50.LAYOUT_LEVELS
        own = [at(experiment, technique, level) for level in levels]
        if any(own):
            texts = [mean(tuple(found.values())) if found else "–" for found in own]
            lines.append((name, experiment.rpartition(", ")[2], counts(own), *texts, *[""] * (3 - len(texts))))
    heads = ("accuracy, %", "length", "n", *map(_level, large_resnet50.LAYOUT_LEVELS))
    return markdown(heads, lines) if any(line[0] == "extended" for line in lines) else not_run("BC")


def masks_table(network: str) -> str:
    """What keeps a mask's zeros, at each level: means over masks of means over replicas."""
    levels = sorted((large_resnet50 if network == "ResNet-50" else large_transformer).MASK_LEVELS)
    schemes = [f"scratch-b, {name}" for name in SCHEMES[1:]] if network == "ResNet-50" else []
    lines = []
    for kind in ("magnitude", *KEPT, *schemes):
        own = [of_masks(network, kind, level) for level in levels]
        if any(own):
            texts = [mean(tuple(found.values())) if found else "–" for found in own]
            lines.append((kind, f"{counts(own)} masks", *texts))
    unit = "BLEU" if network == BOTH else "accuracy, %"
    return markdown((unit, "n", *map(_level, levels)), lines) if lines else not_run("H" if network == BOTH else "I")


def pilots_table() -> str:
    """The pilots of the runs at 98 %, one seed each, judged on the held-out images."""
    lines = []
    for (name, setting), cell in cells(rows(), f"{LONGEST}, pilots").items():
        (row,) = cell.values()
        figures = f"{100 * number(row, 'sparsity'):.3f}", f"{100 * number(row, 'validation'):.2f}"
        lines.append((name, setting, "1", *figures, "chosen" if (name, setting) in chosen_beyond(rows()) else ""))
    heads = ("", "setting", "n", "sparsity, %", "validation accuracy, %", "")
    return markdown(heads, sorted(lines)) if lines else not_run("D")


def beyond_table() -> str:
    """98 % in 40 epochs: the pilots' choice of each technique."""
    lines = []
    for (name, setting), cell in cells(rows(), LONGEST).items():
        if len(cell) >= SEEDS:
            zeros = tuple(100 * number(row, "sparsity") for row in cell.values())
            lines.append((name, setting, str(len(cell)), mean(zeros), mean(tuple(scores(cell).values()))))
    return markdown(("", "setting", "n", "sparsity, %", "accuracy, %"), lines) if lines else not_run("D")


def again_table() -> str:
    """One row of each folder again, beside the old one."""
    lines = []
    for (folder, id), cell in cells(rows(), "again").items():
        for row in cell.values():
            now, then = points_of(row) if not row["bleu"] else number(row, "bleu"), _before(folder, id)
            inside = abs(now - then) <= TOLERANCES[folder]
            said = "again" if inside else "another one"
            lines.append((folder, id, f"{then:.2f}", f"{now:.2f}", f"{TOLERANCES[folder]:g}", said, "1"))
    heads = ("folder", "id", "committed", "now", "tolerance", "", "n")
    return markdown(heads, lines) if lines else not_run("A")


def _before(folder: str, id: str) -> float:
    study, name = ("mnist/study", "tournament") if folder == "mnist" else (folder, "rows")
    old = next(row for row in of_study(study, name) if row["id"] == id)
    value = float(old.get("after_value") or old["accuracy"])
    return value if old.get("metric") == "bleu" else 100 * value


def _level(level: float) -> str:
    return f"{100 * level:g} %" if level else "dense"


TABLES = {
    "large, left": left_table,
    "large, ResNet-50": lambda: by_level(SHORT, ("dense", "magnitude", "random", VD), SPARSITIES, "B"),
    "large, ResNet-50, zeros": lambda: zeros_table(SHORT, (VD,), SPARSITIES, "B"),
    "large, ResNet-50, compared": lambda: comparisons("ResNet-50", "B"),
    "large, layouts": layouts_table,
    "large, layouts, zeros": lambda: zeros_table(LONG, (VD,), large_resnet50.LAYOUT_LEVELS, "C"),
    "large, layouts, compared": lambda: comparisons("layout", "BC"),
    "large, 98 %, pilots": pilots_table,
    "large, 98 %": beyond_table,
    "large, 98 %, compared": lambda: comparisons("98 %", "D"),
    "large, narrow": lambda: by_level(NARROW, ("dense", "magnitude", "random"), SPARSITIES, "E"),
    "large, narrow, compared": lambda: comparisons("width", "E"),
    "large, Transformer": lambda: by_level(BOTH, ("dense", "magnitude", "random", "L0", VD), SEVEN, "F"),
    "large, Transformer, settings": settings_table,
    "large, Transformer, zeros": lambda: zeros_table(BOTH, ("L0", VD), SEVEN, "F"),
    "large, Transformer, compared": lambda: comparisons("Transformer", "F"),
    "large, Transformer, five coefficients": lambda: comparisons("Transformer, five coefficients", "F", VD),
    "large, regularisation, compared": lambda: comparisons("regularisation", "FG"),
    "large, masks of the Transformer": lambda: masks_table("Transformer"),
    "large, masks of the Transformer, compared": lambda: comparisons("Transformer, masks", "H"),
    "large, masks of ResNet-50": lambda: masks_table("ResNet-50"),
    "large, masks of ResNet-50, compared": lambda: comparisons("ResNet-50, masks", "I"),
    "large, again": again_table,
}
