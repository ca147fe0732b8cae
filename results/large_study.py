"""What the rows of the large half show: scores by seed, and the families of comparisons that `large/PLAN.md` names."""

from collections.abc import Iterable
from functools import cache
from itertools import product
from statistics import fmean
from typing import NamedTuple

from large_rows import SEEDS, TOLD, WEIGHTS, Cell, Found, at_level, cells, number, of_each_seed, read
from levels import SLACK
from seeds import RESULTS, find

from openwork.study.experiments import large_resnet50, large_transformer
from openwork.study.experiments.cifar10_resnet import SPARSITIES
from openwork.study.experiments.scratch import SCHEMES
from openwork.study.experiments.transformer import SPARSITIES as SEVEN
from openwork.study.results.claims import ALPHA, as_good_as, holm
from openwork.study.results.paired import Difference, paired

STUDY = RESULTS / "large" / "study"
CHANCE = 10.0
MARGINS = {"ResNet-50": 0.5, "Transformer": 0.3}
"""Of "as good as": points of accuracy, and BLEU."""
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

PLANNED = tuple(weight for weight in WEIGHTS[VD] if weight != 0.03)
"""Those of variational dropout that the plan had before one was added."""

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


@cache
def rows() -> list[Found]:
    """The rows of the study."""
    return read(STUDY)


def scores(cell: Cell) -> Scores:
    """In points or BLEU; a run that diverged has chance or 0."""
    return {seed: points_of(row) for seed, row in sorted(cell.items())}


def points_of(row: Found) -> float:
    """Points of accuracy, or BLEU."""
    if row["experiment"].startswith(BOTH):
        return number(row, "bleu")
    return 100 * float(row["accuracy"]) if row["accuracy"] else CHANCE


def at(experiment: str, technique: str, level: float) -> Scores:
    """The scores of a technique for a level, by seed; empty where fewer than three seeds are there."""
    if experiment == BOTH:
        return of_the_transformer(technique, level)
    return scores(runs_at(experiment, technique, level))


def of_the_transformer(technique: str, level: float) -> Scores:
    """The same of the Transformer, whose seed 0 of what is told its sparsity is in the rows of translation."""
    names = {"dense": "dense", "magnitude": "GradualMagnitude", "random": "RandomPruning"}
    if technique not in names:
        return scores(runs_at(BOTH, technique, level))
    fields = {"final": level} if level else {}
    old = find("translation", "Transformer", names[technique], **fields)
    new = scores(cells(rows(), BOTH).get((technique, f"{level:g}"), {}))
    return {0: old.scores[0]} | new if len(new) >= SEEDS - 1 else {}


def runs_at(experiment: str, technique: str, level: float) -> Cell:
    """The runs behind `at` of a technique that is not told its sparsity."""
    if experiment == BOTH:
        return of_each_seed(rows(), technique, level, [f"{weight:g}" for weight in WEIGHTS[technique]])
    return at_level(rows(), experiment, technique, level)


def zeros_at(experiment: str, technique: str, level: float) -> float | None:
    """Their mean sparsity; None where there are none."""
    found = [number(row, "sparsity") for row in runs_at(experiment, technique, level).values()]
    return fmean(found) if found else None


def is_sparser(zeros: float, level: float) -> bool:
    """Whether so many zeros leave fewer weights than the level does, by more than the slack of `reaches`."""
    return SLACK * (1 - zeros) < 1 - level


def sparser(experiment: str, names: Iterable[str], level: float) -> dict[str, float]:
    """The mean sparsity of the techniques that are not told it and have more zeros than a level."""
    found = {name: zeros_at(experiment, name, level) for name in names if name not in TOLD}
    return {name: zeros for name, zeros in found.items() if zeros is not None and is_sparser(zeros, level)}


def of_masks(network: str, kind: str, level: float) -> Scores:
    """The mean of a kind's replicas, by mask."""
    cell, found = cells(rows(), f"{network}, masks").get((kind, f"{level:g}"), {}), dict[int, list[float]]()
    for seed, row in cell.items():
        found.setdefault(seed if kind == "magnitude" else seed // 100 - 1, []).append(points_of(row))
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
        "Transformer, five coefficients": family(_as_planned(), bleu),
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


def _as_planned() -> list[tuple[str, float, Scores, Scores]]:
    """The comparisons of the Transformer, variational dropout with the coefficients of the first plan."""
    settings = [f"{weight:g}" for weight in PLANNED]
    own = {level: scores(of_each_seed(rows(), VD, level, settings)) for level in SEVEN}
    rest = _against(BOTH, ("L0", "random"), SEVEN)
    return [*((f"{VD} less magnitude", s, own[s], at(BOTH, "magnitude", s)) for s in SEVEN), *rest]


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
