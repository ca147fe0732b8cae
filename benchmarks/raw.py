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
COLUMNS = ("variant", "reference", "unit", "n", "values", "command", "load", *_MACHINE)


def add_out(parser: argparse.ArgumentParser) -> None:
    """Adds the option ``--out``."""
    parser.add_argument("--out", type=Path, metavar="CSV", help="file to which the raw numbers are added")


def keep(
    path: Path | None,
    series: Mapping[str, Sequence[float]],
    *,
    unit: str,
    device: torch.device,
    reference: str = "",
) -> None:
    """Adds a line for each variant, with every number in the order of the measurement.

    Called after each variant, it leaves the numbers of those that were measured before something failed.

    Args:
        path: The file; None keeps nothing.
        series: The numbers of each variant.
        unit: What they are.
        device: What they were measured on.
        reference: The variant that the others are compared with, kept in the same file; empty for none.
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
            lines.writerow(
                [
                    variant,
                    reference * (variant != reference),
                    unit,
                    len(values),
                    numbers,
                    command,
                    load,
                    *(machine[name] for name in _MACHINE),
                ]
            )


def table(path: Path) -> str:
    """The numbers of a file as Markdown, each variant's median beside that of its reference."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    found = {(line["variant"], line["unit"]): [float(value) for value in line["values"].split()] for line in lines}
    text = ["| | unit | n | min | median | max | / reference |", "|---|---|---|---|---|---|---|"]
    for line in lines:
        values = [float(value) for value in line["values"].split()]
        reference = found.get((line["reference"], line["unit"]))
        ratio = f"{statistics.median(values) / statistics.median(reference):.3f}" if reference else "–"
        middle = (f"{function(values):.4g}" for function in (min, statistics.median, max))
        text.append(f"| {line['variant']} | {line['unit']} | {len(values)} | {' | '.join(middle)} | {ratio} |")
    return "\n".join(text)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(table(Path(name)))
