"""Writes the tables of training steps in docs/performance.md and benchmarks/README.md from the kept rows.

Rows are those of `training_step.py`, a file of `measured/` for each machine, training-h200.csv and training-h100.csv,
one for variational dropout, whose code is of a later commit, and one for what was measured again.
Ratios are those of medians, to all dense steps of the same run; what was refused has none.

Run: python benchmarks/training_page.py
"""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from raw import table as raw_table
from step.variants import VARIANTS

ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "benchmarks" / "measured"
FILES = ("h200", "h200-variational", "h200-again", "h100")
TIME, MEMORY, OPERATION = "ms a step", "GiB", "ms"
Row = Mapping[str, str]


def cost_table(path: Path) -> str:
    """A line for each variant: time and memory beside dense, of each model of the file."""
    rows = read(path)
    models = list(
        dict.fromkeys(row["reference"].rpartition(": ")[0] for row in rows if row["unit"] == TIME if row["reference"])
    )
    accepted = {model for model in models if number(rows, f"{model}: dense", TIME)}
    names = {name_of(row["variant"]) for row in rows if row["unit"] == TIME and is_variant(row)}
    lines = [
        f"{described(rows)}:",
        "",
        "| | " + " | ".join(f"{model} | memory" for model in models) + " |",
        "|---" * (1 + 2 * len(models)) + "|",
        "| dense | " + " | ".join(dense_cells(rows, model) for model in models) + " |",
    ]
    for name in (name for name in VARIANTS if name in names):
        cells = [ratio_cells(rows, model, name) if model in accepted else "refused | –" for model in models]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def operation_table(path: Path) -> str:
    """A line for each operation beside its reference; empty without operations."""
    rows = [row for row in read(path) if row["unit"] == OPERATION]
    lines = ["| | ms | / reference |", "|---|---|---|"]
    for row in rows:
        reference = number(rows, row["reference"], OPERATION)
        ratio = f"{middle(row) / reference:.2f}" if reference else "–"
        lines.append(f"| {row['variant']} | {middle(row):.3f} | {ratio} |")
    return "\n".join(lines) if rows else ""


def read(path: Path) -> list[Row]:
    """The lines of a file.

    Raises:
        ValueError: If one is there twice, so that nobody knows which it was.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows: list[Row] = list(csv.DictReader(file))
    keys = [(row["variant"], row["unit"]) for row in rows]
    if twice := {key[0] for key in keys if keys.count(key) > 1}:
        raise ValueError(f"{path.name} has {sorted(twice)[0]!r} twice; keep one run of each model in a file")
    return rows


def middle(row: Row) -> float:
    """The median."""
    return median(map(float, row["values"].split()))


def number(rows: Sequence[Row], variant: str, unit: str) -> float | None:
    """The median of a variant."""
    return next((middle(row) for row in rows if (row["variant"], row["unit"]) == (variant, unit)), None)


def name_of(variant: str) -> str:
    """The name without the model's."""
    return variant.rpartition(": ")[2]


def is_variant(row: Row) -> bool:
    """Whether a line is no dense one."""
    return not re.fullmatch(r"dense( \d+|, refused)?", name_of(row["variant"]))


def dense_cells(rows: Sequence[Row], model: str) -> str:
    """Time and memory of the dense steps."""
    time, memory = (number(rows, f"{model}: dense", unit) for unit in (TIME, MEMORY))
    return f"{f'{time:.2f} ms' if time else 'refused'} | {f'{memory:.2f} GiB' if memory else '–'}"


def ratio_cells(rows: Sequence[Row], model: str, name: str) -> str:
    """Time and memory of a variant, as multiples of dense."""
    cells = []
    for unit, digits in ((TIME, 3), (MEMORY, 2)):
        mine, dense = number(rows, f"{model}: {name}", unit), number(rows, f"{model}: dense", unit)
        cells.append(f"{mine / dense:.{digits}f}" if mine and dense else "–")
    return " | ".join(cells)


def described(rows: Sequence[Row]) -> str:
    """Machine, versions and n."""
    (first, *_) = (row for row in rows if is_variant(row))
    counts = sorted({int(row["n"]) for row in rows if row["unit"] == TIME and is_variant(row)})
    n = f", n = {', '.join(map(str, counts))} steps each" if counts else ""
    flags = re.search(r"--flag ((?:\w+\.\w+=\w+ ?)+)", first["command"])
    with_flags = f", with {flags[1].strip()}" if flags else ""
    return f"{first['processor']}, torch {first['torch']}, commit {first['commit']}{n}{with_flags}"


def page_part(name: str) -> str:
    """What docs/performance.md has of a file, between its marks."""
    path = MEASURED / f"training-{name}.csv"
    if not path.exists():
        return "Not measured yet."
    return "\n\n".join(filter(None, [cost_table(path), operation_table(path)]))


def readme_part() -> str:
    """What benchmarks/README.md has of all files, between its marks."""
    found = [path for path in (MEASURED / f"training-{name}.csv" for name in FILES) if path.exists()]
    parts = [
        f"[{path.stem}](measured/{path.name}):\n\n"
        f"<!-- table measured/{path.name} -->\n\n{raw_table(path)}\n\n<!-- end -->"
        for path in found
    ]
    return "\n\n".join(parts) or "Not measured yet."


def replaced(text: str, mark: str, part: str) -> str:
    """The text with another part between ``<!-- mark -->`` and ``<!-- end of mark -->``."""
    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if not (begin in text and end in rest):
        raise ValueError(f"the page has no {begin} ... {end}; put it where the table belongs")
    return f"{before}{begin}\n\n{part}\n\n{end}{after}"


def main() -> None:
    """Writes both pages."""
    page, readme = ROOT / "docs" / "performance.md", ROOT / "benchmarks" / "README.md"
    text = page.read_text(encoding="utf-8")
    for name in FILES:
        text = replaced(text, f"training {name}", page_part(name))
    page.write_text(text, encoding="utf-8")
    text = replaced(readme.read_text(encoding="utf-8"), "training rows", readme_part())
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
