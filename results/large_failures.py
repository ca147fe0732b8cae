"""The tables of what fails in the large half: L0 on ResNet-50, the VGG-like network, the first convolution at 98 %."""

from statistics import fmean

from large_rows import SEEDS, Cell, cells, chosen_gates, number, passes
from large_study import CHANCE, VD, rows, scores
from large_tables import not_run
from seeds import markdown, mean

NEW = "with new batch-norm statistics, %"


def gates_table() -> str:
    """The pilots of L0 with higher rates on gates, one seed each, judged on the held-out images."""
    chosen, lines = chosen_gates(rows()), []
    pilots = {setting: cell for (_, setting), cell in cells(rows(), "ResNet-50, L0, pilots").items()}
    for setting in sorted(pilots, key=_gates):
        (row,) = pilots[setting].values()
        rate, weight = _gates(setting)
        shown = [f"{100 * number(row, name):.2f}" for name in ("sparsity", "validation", "recalibrated")]
        lines.append((f"× {rate:,g}", f"{weight:,g}", "1", *shown, "chosen" if setting in chosen else ""))
    heads = ("rate on gates", "λ · N · that", "n", "sparsity, %", "validation accuracy, %", NEW, "")
    return markdown(heads, lines) if lines else not_run("J")


def l0_table() -> str:
    """L0 on ResNet-50: sparsities and accuracies, as trained and with new batch-norm statistics."""
    found = {setting: cell for (_, setting), cell in cells(rows(), "ResNet-50, L0").items() if len(cell) >= SEEDS}
    lines = []
    for setting in sorted(found, key=_gates):
        cell, (rate, weight) = found[setting], _gates(setting)
        new = tuple(100 * float(row["recalibrated"]) if row["recalibrated"] else CHANCE for row in cell.values())
        zeros = tuple(100 * number(row, "sparsity") for row in cell.values())
        accuracy = mean(tuple(scores(cell).values()))
        lines.append((f"× {rate:,g}", f"{weight:,g}", str(len(cell)), mean(zeros), accuracy, mean(new)))
    heads = ("rate on gates", "λ · N · that", "n", "sparsity, %", "accuracy, %", NEW)
    return markdown(heads, lines) if lines else not_run("J")


def l0_said() -> str:
    """How many settings have at least 50 % zeros, and what these are worth, in words; "" before one has three seeds."""
    every = [cell for cell in cells(rows(), "ResNet-50, L0").values() if len(cell) >= SEEDS]
    if not every:
        return ""
    half = [cell for cell in every if min(_percents(cell, "sparsity")) >= 50]
    text = f"{len(half)} of {len(every)} settings have at least 50 % zeros in every seed"
    trained = [cell for cell in half if max(_percents(cell, "recalibrated")) > CHANCE]  # in any seed
    if half:
        text += f"; of these {len(half) - len(trained)} are at chance, also with new batch-norm statistics"
    if trained:  # all of them: a best one would be chosen on the test set
        has = "has a mean" if len(trained) == 1 else "have means"
        zeros, right, old = (_spread(trained, name) for name in ("sparsity", "recalibrated", "accuracy"))
        text += f", and {len(trained)} {has} of {right} with them, {old} without, and {zeros} zeros"
    return text


def _percents(cell: Cell, name: str) -> list[float]:
    return [100 * number(row, name) for row in cell.values()]


def _spread(found: list[Cell], name: str) -> str:
    """The lowest and the highest mean of some cells."""
    ends = dict.fromkeys(f"{end(fmean(_percents(cell, name)) for cell in found):.1f}" for end in (min, max))
    return f"{' to '.join(ends)} %"


def _gates(setting: str) -> tuple[float, float]:
    """The factor of the rate on gates and that of 1/N."""
    rate, weight = setting.split("/")
    return float(rate), float(weight)


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


TABLES = {
    "large, L0, pilots": gates_table,
    "large, L0": l0_table,
    "large, VGG-like": vgg_table,
    "large, first convolution": first_convolution_table,
}
