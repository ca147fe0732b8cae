"""The tables of SparseVD's recipe, and SparseVD's own table with what openwork has for it."""

from collections.abc import Iterator
from functools import cache
from statistics import fmean

from played import Found, accuracy, errors, finals, held, not_run, points, probability, sparsities
from seeds import Row, Seeds, find, has_rows, markdown, mean, one_more, paper, place
from seeds import layers as layers_of

from openwork.study.experiments.tournament import SEEDS
from openwork.study.published.rows import table as published
from openwork.study.results.claims import holm
from openwork.study.results.paired import Difference, paired

RECIPES = {
    ("True", "True"): "both: SparseVD's code",
    ("True", "False"): "`train_clip` alone",
    ("False", "True"): "its initial weights alone",
    ("False", "False"): "neither",
}
EXACT, NEITHER = ("True", "True"), ("False", "False")
PARTS = {
    "C": ("LeNet-300-100", tuple(RECIPES)),
    "E": ("LeNet-5-Caffe", (EXACT,)),
    "H": ("LeNet-5-Caffe", tuple(cell for cell in RECIPES if cell != EXACT)),
}
"""The parts of the plan with the recipe: network and settings."""
OTHERS = {
    "pruning": ("Han 2015", "PruneRetrain"),
    "dynamic_network_surgery": ("dynamic surgery", "DynamicSurgery"),
    "soft_weight_sharing": ("soft weight sharing", "SoftWeightSharing"),
    "dense": ("dense", "dense"),
}
"""The techniques of SparseVD's table beside its own: as the study calls them, and the older rows."""


@cache
def recipes(net: str, cell: tuple[str, str], threshold: float = 3.0) -> list[Found]:
    """The runs of SparseVD's recipe on a network, with these two settings, by seed."""
    found = [
        row
        for row in held("recipes")
        if (row["net"], row["train_clip"], row["lasagne"]) == (net, *cell) and float(row["threshold"]) == threshold
    ]
    return sorted(found, key=lambda row: int(row["seed"]))


def recipe(net: str, threshold: float = 3.0) -> Seeds:
    """The runs of SparseVD's recipe as it is."""
    runs = recipes(net, EXACT, threshold)
    return Seeds(tuple(row["id"] for row in runs), sparsities(runs), tuple(100 * accuracy(row) for row in runs))


def recipe_table() -> str:
    """The four recipes beside the published runs."""
    lines: list[Row] = []
    last = ""
    for net in ("LeNet-300-100", "LeNet-5-Caffe"):
        for cell, label in RECIPES.items():
            known = [("Molchanov", 3.0), ("Gale", 3.0), ("Gale", 2.0), *([("Gale", 0.1)] if net[-1] == "0" else [])]
            for by, threshold in known if cell in (EXACT, NEITHER) else known[:2]:
                if not (runs := recipes(net, cell, threshold)):
                    continue
                zeros, wrong, (sparsity, error) = sparsities(runs), errors(runs), paper(net, by, threshold)
                more = (f"{one_more(zeros)} %", f"{one_more(wrong)} %") if len(runs) > 1 else ("–", "–")
                text = f"{by} et al.: {sparsity:.2f} %, {error:.2f} %"
                if len(runs) > 1:
                    text += f": {place(sparsity, zeros)}, {place(error, wrong)}"
                name = f"{net}, {label}, threshold {threshold:g}"
                name, last = name if name != last else "— the same runs", name
                lines.append((name, str(len(runs)), f"{mean(zeros)} %", f"{mean(wrong)} %", *more, text))
    heads = ("", "n", "sparsity", "error", "one more run (95 %): sparsity", "error", "published: sparsity, error")
    missing = "".join(left())
    return "\n\n".join([*([markdown(heads, lines)] if lines else []), *([not_run(missing)] if missing else [])])


def left() -> list[str]:
    """The letters of the parts of which some settings have no rows."""
    return [part for part, (net, cells) in PARTS.items() if not all(recipes(net, cell) for cell in cells)]


def missing_cells(part: str) -> list[str]:
    """The settings of a part that have no rows, in words."""
    net, cells = PARTS[part]
    return [RECIPES[cell] for cell in cells if not recipes(net, cell)]


def complete() -> bool:
    """Whether all four recipes have their 20 seeds on LeNet-300-100."""
    return all(len(recipes("LeNet-300-100", cell)) == len(SEEDS) for cell in RECIPES)


def recipe_effects(net: str = "LeNet-300-100") -> list[tuple[str, str, Difference, float | None]]:
    """What each setting changes: (setting, of what, the paired difference, its p corrected over all eight)."""
    kinds = ("True", "False")
    cells = [
        (f"`train_clip`, {'with its' if other == 'True' else 'with PyTorch’s'} initial weights", other, 0)
        for other in kinds
    ] + [(f"initial weights, {'with' if other == 'True' else 'without'} `train_clip`", other, 1) for other in kinds]
    found = []
    for label, other, axis in cells:
        on, off = (recipes(net, (value, other) if axis == 0 else (other, value)) for value in kinds)
        for what, values in (("error", errors), ("sparsity", sparsities)):
            pair = paired(*({int(r["seed"]): v for r, v in zip(s, values(s), strict=True)} for s in (on, off)))
            found.append((label, what, pair))
    p = holm([pair.p for _, _, pair in found])
    return [(*one, value) for one, value in zip(found, p, strict=True)]


def effects_table() -> str:
    """The effects of `train_clip` and of the initial weights."""
    lines: list[Row] = []
    if not complete():
        return not_run("C")
    effects = recipe_effects()
    for (label, _, wrong, p), (_, _, zeros, q) in zip(effects[::2], effects[1::2], strict=True):
        lines.append((label, str(wrong.n), points(wrong), probability(p), points(zeros), probability(q)))
    return markdown(("LeNet-300-100", "n", "error, points", "p (Holm)", "sparsity, points", "p (Holm)"), lines)


def small_effects_table() -> str:
    """The same effects on LeNet-5-Caffe, without p-values: no test of the plan asks for them."""
    if "E" in left() or "H" in left():
        return not_run("".join(part for part in left() if part in "EH"))
    effects = recipe_effects("LeNet-5-Caffe")
    lines = [
        (label, str(wrong.n), points(wrong), points(zeros))
        for (label, _, wrong, _), (_, _, zeros, _) in zip(effects[::2], effects[1::2], strict=True)
    ]
    return markdown(("LeNet-5-Caffe, exploratory", "n", "error, points", "sparsity, points"), lines)


def compression_table() -> str:
    """SparseVD's table: error, sparsity by layer and compression, published and here."""
    lines = []
    for row in published("sparsevd"):
        label, n, *found = beside(row["model"], row["technique"], 1 - 1 / float(row["compression"]))
        known = (f"{row['error_percent']} %", row["layer_sparsity_percent"] or "–", f"{row['compression']}×")
        lines.append((f"{row['model']}: {label}", str(n), *found, *known))
    heads = ("", "n", "error", "sparsity by layer, %", "compression")
    return markdown((*heads, "published, one run: error", "sparsity by layer, %", "compression"), lines)


def beside(net: str, technique: str, sparsity: float) -> tuple[str, int, str, str, str]:
    """What openwork has for a line of SparseVD's table: label, n, error, sparsity by layer, compression."""
    if technique == "variational_dropout":
        label, runs = "SparseVD, its recipe", recipes(net, EXACT)
        return (label, len(runs), *measured(runs)) if runs else (label, 0, "not run yet", "–", "–")
    name, older = OTHERS[technique]
    if net == "LeNet-300-100" and (runs := nearest(name, sparsity)):
        return name, len(runs), *measured(runs)
    if not has_rows("mnist", net, older):
        return name, 0, "not run yet", "–", "–"
    found = find("mnist", net, older)
    each = "-".join(f"{value:.1f}" for value in layers_of("mnist", found).values())
    seeds = "one seed" if found.n == 1 else f"{found.n} seeds"
    return f"{name}, older: {seeds}", found.n, f"{mean(found.errors)} %", each or "–", times(found.sparsity)


def measured(runs: list[Found]) -> tuple[str, str, str]:
    """Error, sparsity by layer and compression of runs of the study."""
    return f"{mean(errors(runs))} %", by_layer(runs, "-") or "–", times(fmean(sparsities(runs)))


def by_layer(runs: list[Found], between: str) -> str:
    """The mean sparsity of each layer, in %."""
    layers = zip(*(map(float, run["layers"].split()) for run in runs if run["layers"]), strict=True)
    return between.join(f"{100 * fmean(each):.1f}" for each in layers)


def recipe_in_short() -> Iterator[Row]:
    """What README says of the recipe."""
    for net in ("LeNet-300-100", "LeNet-5-Caffe"):
        if not recipes(net, EXACT):
            continue
        found, (sparsity, error) = recipe(net), paper(net, "Molchanov", 3.0)
        where = place(sparsity, found.sparsities), place(error, found.errors)
        lies = " and ".join(dict.fromkeys(where))
        text = (
            f"{found.sparsity:.2f} % sparsity, error {mean(found.errors)} %; the published run, {sparsity:.2f} % and "
            f"{error:.2f} %, lies {lies} of where one more would"
        )
        page = "[SparseVD's recipe](results/mnist/README.md#sparsevds-recipe)"
        yield f"variational dropout by SparseVD's recipe, {net} on MNIST", str(found.n), text, page


def times(sparsity: float) -> str:
    """The compression at a sparsity in %."""
    return f"{100 / (100 - sparsity):.0f}×" if sparsity < 100 else "–"


def nearest(name: str, sparsity: float) -> list[Found]:
    """The final runs of a technique whose mean sparsity is nearest."""
    own = [runs for (technique, _), runs in finals().items() if technique == name]
    return min(own, key=lambda runs: abs(fmean(sparsities(runs)) / 100 - sparsity), default=[])
