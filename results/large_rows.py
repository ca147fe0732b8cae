"""The rows of the large half by what was run, and what they choose, as `large/PLAN.md` says: never by test data."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from statistics import fmean

from kept import read_lines
from levels import reaches

from openwork.study.experiments import large_transformer
from openwork.study.experiments.large_resnet50 import LONGEST

Found = dict[str, str]
Cell = dict[int, Found]
"""Rows by seed."""

KEY = ("experiment", "technique", "setting", "seed", "threshold")
TOLD = ("dense", "magnitude", "magnitude, extended", "random")
"""What is told its sparsity."""
SEEDS = 3
WEIGHTS = {"L0": large_transformer.L0_WEIGHTS, "variational dropout": large_transformer.KL_WEIGHTS}
"""The coefficients on the Transformer, times N, of which validation chooses; in the order of the plan."""
PASSING = 0.88
"""The validation accuracy from which on SparseVD is trained from the VGG-like network."""


def read(folder: Path) -> list[Found]:
    """The rows in a folder; none where nothing has been run."""
    return read_lines(folder / "rows.csv", KEY)


def cells(rows: Iterable[Found], experiment: str) -> dict[tuple[str, str], Cell]:
    """The rows of an experiment at the thresholds of their training, by technique and setting."""
    found: dict[tuple[str, str], Cell] = {}
    for row in rows:
        if row["experiment"] == experiment and not row["threshold"]:
            found.setdefault((row["technique"], row["setting"]), {})[int(row["seed"])] = row
    return found


def number(row: Found, name: str) -> float:
    """A figure of a row; 0 of a run that diverged."""
    return float(row[name] or 0)


def at_level(rows: Iterable[Found], experiment: str, technique: str, level: float) -> Cell:
    """The runs of a technique for a level, by seed, each with at least three; empty where there are none.

    Where the technique is not told its sparsity, it is the setting with the best mean on validation data of those whose
    mean sparsity reaches the level.
    """
    of = {setting: cell for (name, setting), cell in cells(rows, experiment).items() if name == technique}
    if technique in TOLD:
        cell = of.get(f"{level:g}", {})
        return cell if len(cell) >= SEEDS else {}
    there = [
        cell
        for cell in of.values()
        if len(cell) >= SEEDS and reaches(fmean(number(row, "sparsity") for row in cell.values()), level)
    ]
    return max(there, key=lambda cell: fmean(number(row, "validation") for row in cell.values()), default={})


def of_each_seed(rows: Iterable[Found], technique: str, level: float, settings: Collection[str]) -> Cell:
    """The runs of the Transformer for a level, by seed: each chooses coefficient and threshold by its validation data.

    Only rows whose translations were counted take part: at the other thresholds another of the same model is better.

    Args:
        rows: The rows of the study.
        technique: One that is not told its sparsity.
        level: The sparsity to reach.
        settings: The coefficients to choose from; nothing is chosen before each has three seeds.
    """
    own = [row for row in rows if (row["experiment"], row["technique"]) == ("Transformer", technique)]
    rows = [row for row in own if row["setting"] in settings]
    there = {setting: cell for (_, setting), cell in cells(rows, "Transformer").items()}
    if any(len(there.get(setting, {})) < SEEDS for setting in settings):
        return {}
    best: Cell = {}
    for row in rows:
        if not row["bleu"] or not reaches(number(row, "sparsity"), level):
            continue
        seed = int(row["seed"])
        if seed not in best or number(row, "validation") > number(best[seed], "validation"):
            best[seed] = row
    return best if len(best) >= SEEDS else {}


def unbeaten(points: Mapping[float, tuple[float, float]]) -> list[float]:
    """The thresholds at which no other one has as many zeros and as high a score, and more of either.

    Args:
        points: (sparsity, score) by threshold.
    """
    return [
        own
        for own, (zeros, score) in points.items()
        if not any(a >= zeros and b >= score and (a, b) != (zeros, score) for a, b in points.values())
    ]


def chosen_beyond(rows: Iterable[Found]) -> list[tuple[str, str]]:
    """(technique, setting) for the final runs at 98 %: the best pilot that reaches it, or the sparsest; none before."""
    pilots = cells(rows, f"ResNet-50, {LONGEST} epochs, pilots")
    chosen = []
    for name in dict.fromkeys(technique for technique, _ in pilots):
        own = {setting: next(iter(cell.values())) for (technique, setting), cell in pilots.items() if technique == name}
        if len(own) < 4:
            continue
        reached = [setting for setting, row in own.items() if reaches(number(row, "sparsity"), 0.98)]
        if reached:
            best = max(reached, key=lambda setting: number(own[setting], "validation"))
        else:
            best = max(own, key=lambda setting: number(own[setting], "sparsity"))
        chosen.append((name, best))
    return chosen


def chosen_gates(rows: Iterable[Found]) -> list[str]:
    """The settings of L0 for the final runs: at 50, 80 and 90 % the best pilot with new batch-norm statistics."""
    pilots = {setting: next(iter(cell.values())) for (_, setting), cell in cells(rows, "ResNet-50, L0, pilots").items()}
    if len(pilots) < 12:
        return []
    found = []
    for level in (0.5, 0.8, 0.9):
        reached = [setting for setting, row in pilots.items() if reaches(number(row, "sparsity"), level)]
        if reached:
            found.append(max(reached, key=lambda setting: number(pilots[setting], "recalibrated")))
    return list(dict.fromkeys(found))


def passes(rows: Iterable[Found]) -> bool | None:
    """Whether the dense VGG-like network is good enough for SparseVD; None before its three runs."""
    cell = cells(rows, "VGG-like").get(("dense", "200 epochs"), {})
    if len(cell) < SEEDS:
        return None
    return fmean(number(row, "validation") for row in cell.values()) >= PASSING
