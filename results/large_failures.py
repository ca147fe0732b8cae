"""The tables of what fails in the large half: L0 on ResNet-50, the VGG-like network, the first convolution at 98 %."""

from large_rows import SEEDS, cells, number, passes
from large_study import CHANCE, VD, rows, scores
from large_tables import not_run
from seeds import markdown, mean


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


TABLES = {
    "large, L0": l0_table,
    "large, VGG-like": vgg_table,
    "large, first convolution": first_convolution_table,
}
