"""The raw numbers of the benchmarks, kept as CSV beside the tables that are made of them.

Run: python benchmarks/raw.py benchmarks/measured/masking-cpu.csv     prints the table of a file
"""

import argparse
import csv
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from openwork.study.runs.environment import environment

_MACHINE = ("device", "processor", "threads", "torch", "python", "openwork", "commit")
COLUMNS = ("variant", "unit", "n", "values", "command", "load", *_MACHINE)


def add_out(parser: argparse.ArgumentParser) -> None:
    """Adds the option ``--out``."""
    parser.add_argument("--out", type=Path, metavar="CSV", help="file to which the raw numbers are added")


def keep(path: Path | None, series: Mapping[str, Sequence[float]], unit: str, device: torch.device) -> None:
    """Adds a line for each variant, with every number in the order of the measurement; None keeps nothing.

    Called after each variant, it leaves the numbers of those that were measured before something failed.
    """
    if path is None:
        return
    new = not path.exists()
    machine = environment(device)
    load = f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    with path.open("a", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        if new:
            lines.writerow(COLUMNS)
        for variant, values in series.items():
            numbers = " ".join(f"{value:.5g}" for value in values)
            lines.writerow([variant, unit, len(values), numbers, command, load, *(machine[name] for name in _MACHINE)])


def table(path: Path) -> str:
    """The numbers of a file as Markdown, each variant's median beside that of what it is compared with.

    That is the line ``dense, beside VARIANT`` where there is one, and otherwise the file's first of the same unit.
    """
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    found = {(line["variant"], line["unit"]): [float(value) for value in line["values"].split()] for line in lines}
    text = ["| | unit | n | min | median | max | / reference |", "|---|---|---|---|---|---|---|"]
    first: dict[str, list[float]] = {}
    for (variant, unit), values in found.items():
        if not variant.startswith("dense, beside "):
            reference = found.get((f"dense, beside {variant}", unit)) or first.setdefault(unit, values)
            middle = statistics.median(values)
            cells = (min(values), middle, max(values), middle / statistics.median(reference))
            text.append(f"| {variant} | {unit} | {len(values)} | {' | '.join(f'{cell:.4g}' for cell in cells)} |")
    return "\n".join(text)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(table(Path(name)))
