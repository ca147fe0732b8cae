"""What the rows of the large half show: the families of comparisons that `large/PLAN.md` names, and its tables."""

from collections.abc import Iterable
from functools import cache
from itertools import product
from statistics import fmean
from typing import NamedTuple

from large_rows import SEEDS, Cell, Found, at_level, cells, number, of_each_seed, passes, read
from played import points as written
from played import probability
from seeds import RESULTS, find, markdown, mean
from seeds import rows as of_study

from openwork.study.experiments import large_resnet50, large_transformer
from openwork.study.experiments.cifar10_resnet import SPARSITIES
from openwork.study.experiments.scratch import SCHEMES
from openwork.study.experiments.transformer import SPARSITIES as SEVEN
from openwork.study.results.claims import ALPHA, as_good_as, holm
from openwork.study.results.paired import Difference, paired

STUDY = RESULTS / "large" / "study"
COMMAND = "python results/large/run.py results/large/study --runs runs --device cuda --precision bf16 --seconds 540"
CHANCE = 10.0
MARGINS = {"ResNet-50": 0.5, "Transformer": 0.3}
"""Of "as good as": points of accuracy, and BLEU."""
TOLERANCES = {"cifar10-resnet50": 1.0, "translation": 0.5, "cifar10": 1.0, "mnist": 0.3}
"""Of a row that is run again."""
SHORT, LONG = f"ResNet-50, {large_resnet50.EPOCHS} epochs", f"ResNet-50, {large_resnet50.LONG} epochs"
LONGEST, NARROW = f"ResNet-50, {large_resnet50.LONGEST} epochs", f"ResNet-50 x {large_resnet50.NARROW:g}"
VD, EXTENDED, BOTH = "variational dropout", "magnitude, extended", "Transformer"
LAYOUTS = (("uniform", SHORT, "magnitude"), ("uniform", LONG, "magnitude"),
           ("extended", SHORT, EXTENDED), ("extended", LONG, EXTENDED), (VD, SHORT, VD), (VD, LONG, VD))  # fmt: skip
KEPT = ("lottery ticket", "scratch-e", "scratch-e, augmented", "scratch-b")
MASK_PAIRS = (
    *((kind, "magnitude") for kind in ("lottery ticket", "scratch-e", "scratch-b")),
    *(("lottery ticket", "scratch-e"), ("scratch-b", "scratch-e"), ("scratch-e, augmented", "scratch-e")),
)

Scores = dict[int, float]
"""Points of accuracy, or BLEU, by seed or mask."""


class Compared(NamedTuple):
    """A comparison at a level; the difference is None where it cannot be made."""

    label: str
    level: float
    difference: Difference | None
    p: float | None
    as_good: bool
    alone: int
    """Seeds or masks that one of the two has and the other lacks."""


def not_run(parts: str) -> str:
    """What a table says whose parts of the plan have no rows yet."""
    return f"Not run yet: `{COMMAND} --parts {parts}`."


@cache
def rows() -> list[Found]:
    """The rows of the study."""
    return read(STUDY)


def scores(cell: Cell) -> Scores:
    """In points or BLEU; a run that diverged has chance or 0."""
    return {seed: _points(row) for seed, row in sorted(cell.items())}


def _points(row: Found) -> float:
    if row["experiment"].startswith(BOTH):
        return number(row, "bleu")
    return 100 * float(row["accuracy"]) if row["accuracy"] else CHANCE


def at(experiment: str, technique: str, level: float) -> Scores:
    """The scores of a technique for a level, by seed; empty where fewer than three seeds are there."""
    if experiment == BOTH:
        return of_the_transformer(technique, level)
    return scores(at_level(rows(), experiment, technique, level))


def of_the_transformer(technique: str, level: float) -> Scores:
    """The same of the Transformer, whose seed 0 of what is told its sparsity is in the rows of translation."""
    names = {"dense": "dense", "magnitude": "GradualMagnitude", "random": "RandomPruning"}
    if technique not in names:
        return scores(of_each_seed(rows(), technique, level))
    fields = {"final": level} if level else {}
    old = find("translation", "Transformer", names[technique], **fields)
    new = scores(cells(rows(), BOTH).get((technique, f"{level:g}"), {}))
    return {0: old.scores[0]} | new if len(new) >= SEEDS - 1 else {}


def of_masks(network: str, kind: str, level: float) -> Scores:
    """The mean of a kind's replicas, by mask."""
    cell, found = cells(rows(), f"{network}, masks").get((kind, f"{level:g}"), {}), dict[int, list[float]]()
    for seed, row in cell.items():
        found.setdefault(seed if kind == "magnitude" else seed // 100 - 1, []).append(_points(row))
    return {mask: fmean(values) for mask, values in sorted(found.items())} if len(found) >= SEEDS else {}


def less(ours: Scores, theirs: Scores) -> Difference | None:
    """Ours less theirs, over what both have; None for fewer than three pairs."""
    both = ours.keys() & theirs.keys()
    if len(both) < SEEDS:
        return None
    return paired({s: ours[s] for s in both}, {s: theirs[s] for s in both})


def family(pairs: Iterable[tuple[str, float, Scores, Scores]], margin: float) -> list[Compared]:
    """The comparisons with Holm's p, and whether the two are shown to be as good."""
    pairs = list(pairs)
    every = [(label, level, less(ours, theirs)) for label, level, ours, theirs in pairs]
    p = holm([found.p if found else None for *_, found in every])
    same = holm([as_good_as(found, margin).p if found else None for *_, found in every])
    alone = [len(ours.keys() ^ theirs.keys()) for *_, ours, theirs in pairs]
    return [
        Compared(*each, one, other is not None and other < ALPHA, left)
        for each, one, other, left in zip(every, p, same, alone, strict=True)
    ]


@cache
def families() -> dict[str, list[Compared]]:
    """All families of the plan, by name."""
    points, bleu = MARGINS["ResNet-50"], MARGINS["Transformer"]
    levels = large_resnet50.LAYOUT_LEVELS
    by = {key: {s: at(key[1], key[2], s) for s in levels} for key in LAYOUTS}
    uniform, extended, dropout = ([by[key] for key in LAYOUTS[first : first + 2]] for first in (0, 2, 4))
    lengths = [(f"{large_resnet50.EPOCHS} epochs", 0), (f"{large_resnet50.LONG} epochs", 1)]
    layouts = [
        (f"extended less uniform, {e}", s, extended[n][s], uniform[n][s]) for (e, n), s in product(lengths, levels)
    ]
    for name, own in (("uniform", uniform), ("extended", extended)):
        layouts += [(f"30 less 20 epochs, {name}", s, own[1][s], own[0][s]) for s in levels]
    layouts += [
        ("interaction", s, _minus(extended[1][s], uniform[1][s]), _minus(extended[0][s], uniform[0][s])) for s in levels
    ]
    layouts += [
        (f"{VD} less extended, {e}", s, dropout[n][s], extended[n][s]) for (e, n), s in product(lengths, levels)
    ]
    final = {name: chosen(name) for name in ("magnitude", VD)}
    presets = [(f"{preset} less both", name, level)
               for preset in large_transformer.PRESETS
               for name, level in (("dense", 0.0), *(("magnitude", s) for s in large_transformer.PRESET_LEVELS))
               ]  # fmt: skip
    found = {
        "ResNet-50": family(_against(SHORT, (VD, "random"), SPARSITIES), points),
        "layout": family(layouts, points),
        "98 %": family([(f"{VD} less magnitude", 0.98, final[VD], final["magnitude"])], points),
        "width": family(_against(NARROW, ("random",), SPARSITIES), points),
        "Transformer": family(_against(BOTH, (VD, "L0", "random"), SEVEN), bleu),
        "regularisation": family(
            [
                (label, level, at(f"{BOTH}, {label.removesuffix(' less both')}", name, level), at(BOTH, name, level))
                for label, name, level in presets
            ],
            bleu,
        ),
    }
    for network, module in (("ResNet-50", large_resnet50), ("Transformer", large_transformer)):
        pairs = [*MASK_PAIRS]
        if network == "ResNet-50":
            pairs += [(f"scratch-b, {name}", "scratch-b") for name in SCHEMES[1:]]
        compared = [
            (f"{one} less {other}", level, of_masks(network, one, level), of_masks(network, other, level))
            for (one, other), level in product(pairs, sorted(module.MASK_LEVELS))
        ]
        found[f"{network}, masks"] = family(compared, MARGINS[network])
    return found


def _against(experiment: str, names: Iterable[str], levels: Iterable[float]) -> list[tuple[str, float, Scores, Scores]]:
    return [
        (f"{name} less magnitude", level, at(experiment, name, level), at(experiment, "magnitude", level))
        for name, level in product(names, levels)
    ]


def _minus(ours: Scores, theirs: Scores) -> Scores:
    return {seed: ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())}


def chosen(technique: str) -> Scores:
    """The final runs at 98 % of the setting that the pilots chose."""
    of = [cell for (name, _), cell in cells(rows(), LONGEST).items() if name == technique and len(cell) >= SEEDS]
    return scores(of[0]) if of else {}


def verdict(one: Compared) -> str:
    """``▲`` or ``▼`` where a difference is shown, ``≈`` where the two are shown to be as good."""
    if one.difference is not None and one.p is not None and one.p < ALPHA:
        return "▲" if one.difference.mean > 0 else "▼"
    return "≈" if one.as_good else ""


def comparisons(name: str, parts: str) -> str:
    """The differences of a family with 95 % intervals and Holm's p; a row for each label, a column for each level."""
    every = families()[name]
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


def beyond_table() -> str:
    """98 % in 40 epochs: the pilots' choice of each technique."""
    lines = []
    for (name, setting), cell in cells(rows(), LONGEST).items():
        if len(cell) >= SEEDS:
            zeros = tuple(100 * number(row, "sparsity") for row in cell.values())
            lines.append((name, setting, str(len(cell)), mean(zeros), mean(tuple(scores(cell).values()))))
    return markdown(("", "setting", "n", "sparsity, %", "accuracy, %"), lines) if lines else not_run("D")


def l0_table() -> str:
    """L0 on ResNet-50: sparsities and accuracies, as trained and with new batch-norm statistics."""
    lines = []
    for (_, setting), cell in cells(rows(), "ResNet-50, L0").items():
        if len(cell) < SEEDS:
            continue
        rate, weight = setting.split("/")
        new = tuple(100 * float(row["recalibrated"]) if row["recalibrated"] else CHANCE for row in cell.values())
        zeros = tuple(100 * number(row, "sparsity") for row in cell.values())
        accuracy = mean(tuple(scores(cell).values()))
        lines.append((f"× {rate}", f"{float(weight):,g}", str(len(cell)), mean(zeros), accuracy, mean(new)))
    heads = ("rate on gates", "λ · N · that", "n", "sparsity, %", "accuracy, %", "with new batch-norm statistics, %")
    return markdown(heads, lines) if lines else not_run("J")


def vgg_table() -> str:
    """The VGG-like network for 200 epochs."""
    if passes(rows()) is None:
        return not_run("K")
    lines = []
    for (name, _), cell in cells(rows(), "VGG-like").items():
        zeros = mean(tuple(100 * number(row, "sparsity") for row in cell.values()))
        validation = mean(tuple(100 * number(row, "validation") for row in cell.values()))
        lines.append((name, str(len(cell)), validation, mean(tuple(scores(cell).values())), zeros))
    if not passes(rows()):
        lines.append((VD, "0", "baseline not reached: below 88 %, so it was not trained", "", ""))
    return markdown(("200 epochs", "n", "validation accuracy, %", "accuracy, %", "sparsity, %"), lines)


def first_convolution_table() -> str:
    """How many runs diverge with the first convolution at 98 %, and with it dense."""
    lines = []
    for (name, rate), cell in cells(rows(), "first convolution").items():
        ended = [row for row in cell.values() if row["status"] == "diverged"]
        steps = ", ".join(row["step"] for row in ended) or "–"
        lines.append((name, rate, str(len(cell)), f"{len(ended)} of {len(cell)}", steps))
    return markdown(("", "learning rate", "n", "diverged", "seen at step"), lines) if lines else not_run("L")


def again_table() -> str:
    """One row of each folder again, beside the old one."""
    lines = []
    for (folder, id), cell in cells(rows(), "again").items():
        for row in cell.values():
            now, then = _points(row) if not row["bleu"] else number(row, "bleu"), _before(folder, id)
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
    "large, ResNet-50": lambda: by_level(SHORT, ("dense", "magnitude", "random", VD), SPARSITIES, "B"),
    "large, ResNet-50, compared": lambda: comparisons("ResNet-50", "B"),
    "large, layouts": layouts_table,
    "large, layouts, compared": lambda: comparisons("layout", "BC"),
    "large, 98 %": beyond_table,
    "large, 98 %, compared": lambda: comparisons("98 %", "D"),
    "large, narrow": lambda: by_level(NARROW, ("dense", "magnitude", "random"), SPARSITIES, "E"),
    "large, narrow, compared": lambda: comparisons("width", "E"),
    "large, Transformer": lambda: by_level(BOTH, ("dense", "magnitude", "random", "L0", VD), SEVEN, "F"),
    "large, Transformer, compared": lambda: comparisons("Transformer", "F"),
    "large, regularisation, compared": lambda: comparisons("regularisation", "FG"),
    "large, masks of the Transformer": lambda: masks_table("Transformer"),
    "large, masks of the Transformer, compared": lambda: comparisons("Transformer, masks", "H"),
    "large, masks of ResNet-50": lambda: masks_table("ResNet-50"),
    "large, masks of ResNet-50, compared": lambda: comparisons("ResNet-50, masks", "I"),
    "large, L0": l0_table,
    "large, VGG-like": vgg_table,
    "large, first convolution": first_convolution_table,
    "large, again": again_table,
}
