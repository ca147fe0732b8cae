"""Where the zeros of the large half's models are: the paper's figures 2 and 4, means of three models or more."""

from statistics import fmean
from typing import Any

from large_rows import SEEDS, Cell, at_level, cells, number
from large_study import BOTH, EXTENDED, LONG, VD, rows
from seeds import rows as of_study

KINDS = {
    "embedding": "embedding",
    "query": "queries",
    "key": "keys",
    "value": "values",
    "output": "outputs of attention",
    "up": "feed-forward",
    "down": "feed-forward",
}
"""The kind of a Transformer's layer by the word in its name, in the order of the picture."""
NEAR = 0.02
"""By how much the sparsity of models may differ that are drawn side by side."""


def kinds() -> list[dict[str, Any]]:
    """Figure 2: the zeros of each kind of layer of the Transformer, in `alike`.

    Magnitude pruning has the level itself in every layer.
    """
    names, found = layer_names("translation"), []
    for technique, cell in alike().items():
        values = dict(zip(names, layer_zeros(cell), strict=True))
        for kind in dict.fromkeys(KINDS.values()):
            own = [value for name, value in values.items() if KINDS[_word(name)] == kind]
            found.append({"technique": technique, "kind": kind, "sparsity": fmean(own)})
    return found


def alike(setting: str = "4") -> dict[str, Cell]:
    """Models of variational dropout and L0 of like sparsity and quality, by seed; none before all seeds are there.

    L0's with one coefficient, and of variational dropout's with no more than two points fewer or more zeros the one
    whose accuracy on validation data is nearest.
    """
    l0 = cells(rows(), BOTH).get(("L0", setting), {})
    points = [row for row in rows() if (row["experiment"], row["technique"]) == (BOTH, VD) and row["bleu"]]
    found: Cell = {}
    for seed, own in l0.items():
        near = [
            row
            for row in points
            if int(row["seed"]) == seed and abs(number(row, "sparsity") - number(own, "sparsity")) < NEAR
        ]
        if near:
            found[seed] = min(near, key=lambda row: abs(number(row, "validation") - number(own, "validation")))
    return {VD: found, "L0": l0} if len(found) == len(l0) >= SEEDS else {}


def _word(name: str) -> str:
    return next(word for word in KINDS if word in name.split("."))


def layers(level: float = 0.95) -> list[dict[str, Any]]:
    """Figure 4: the zeros of every layer of ResNet-50."""
    names, found = layer_names("cifar10-resnet50"), []
    for technique, cell in resnets(level).items():
        values = layer_zeros(cell)
        values = [0.0] * (len(names) - len(values)) + values  # the extended layout leaves the first convolution dense
        found += [
            {"technique": technique, "place": place, "layer": name, "sparsity": value}
            for place, (name, value) in enumerate(zip(names, values, strict=True))
            if cell
        ]
    return found


def resnets(level: float = 0.95) -> dict[str, Cell]:
    """The models of figure 4: those of 30 epochs, as variational dropout does not reach the level in fewer."""
    return {name: at_level(rows(), LONG, name, level) for name in ("magnitude", EXTENDED, VD)}


def layer_names(folder: str) -> list[str]:
    """The names of all selected weights, in the order of a row's ``layers``."""
    rows = of_study(folder, "layers")
    return [row["layer"] for row in rows if row["id"] == rows[0]["id"]]


def layer_zeros(cell: Cell) -> list[float]:
    """The mean sparsity of each layer over the models, in %."""
    every = [list(map(float, row["layers"].split())) for row in cell.values() if row["layers"]]
    return [100 * fmean(values) for values in zip(*every, strict=True)]
