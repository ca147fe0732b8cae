"""Writes the tables of docs/hardware.md and docs/buys.md: what sparsity gives on measured hardware, from the raw rows.

A cell is the reference's median divided by the variant's: how many times faster, or smaller, than dense. A cell without
a row is "not measured". The rows come from the benchmarks that the second table names.

Run: python benchmarks/hardware.py
"""

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

FOLDER = Path(__file__).parent
PAGES = [FOLDER.parent / "docs" / name for name in ("hardware.md", "buys.md")]
LEVELS = (50, 70, 90, 95, 98)
MISSING = "not measured"
SHRUNK = "shrink-cpu.csv"
TIMES = "times smaller"
"""The unit of numbers that are gains themselves."""

Line = dict[str, str]


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        what: What is measured, for readers.
        file: The raw rows, in `measured/`.
        variant: The name of a variant in them, with ``{level}`` for the sparsity in percent.
        unit: The unit of the variant's numbers.
        level: The only level that can be measured, such as 50 of 2:4; None for all.
    """

    what: str
    file: str
    variant: str
    unit: str
    level: int | None = None

    def names(self) -> dict[int, str]:
        """The variant at each level."""
        return {level: self.variant.format(level=level) for level in LEVELS if self.level in (None, level)}


def _gpu(shape: str, batch: int) -> Row:
    return Row(
        f"{shape} Linear, bf16, batch {batch}",
        "gpu-inference.csv",
        f"{shape}, batch {batch}: packed, {{level}} %",
        "µs",
    )


def _file(weights: str, dtype: str) -> Row:
    return Row(f"sparse file, {weights}, {dtype}", "file-size.csv", f"{weights}, {{level}}%, {dtype}: openwork", TIMES)


def _cpu(what: str, variant: str) -> Row:
    return Row(what, "cpu-inference.csv", f"{variant}: openwork", "ms")


ROWS = (
    *(_cpu(f"FFN 512-2048-512, batch {n}", f"FFN 512-2048-512, batch {n}, {{level}}%") for n in (1, 16, 64)),
    _cpu("MiniLM, a sentence of 32 tokens", "MiniLM, 32 tokens, {level}%"),
    _cpu("ResNet-50, one image", "ResNet-50, batch 1, {level}%"),
    _cpu("LeNet-300-100, batch 1", "LeNet-300-100, batch 1, {level} %"),
    *(_file(weights, dtype) for weights in ("MiniLM", "Gaussian") for dtype in ("bfloat16", "float32")),
    *(_gpu(shape, batch) for shape in ("4096 x 4096", "11008 x 4096") for batch in (1, 8, 64)),
    Row(
        "4096 x 4096 Linear, bf16, 1,024 rows (prefill), 2:4",
        "gpu-inference.csv",
        "4096 x 4096, batch 1024: 2:4",
        "µs",
        level=50,
    ),
    Row(
        "11008 x 4096 Linear, bf16, 1,024 rows (prefill), 2:4",
        "gpu-inference.csv",
        "11008 x 4096, batch 1024: 2:4",
        "µs",
        level=50,
    ),
    Row("onnxruntime, FFN 512-2048-512, batch 16", "onnx-cpu.csv", "FFN 512-2048-512, batch 16, {level}%", "ms a call"),
    Row("onnxruntime, LeNet-300-100, batch 1", "onnx-cpu.csv", "LeNet-300-100, batch 1, {level}%", "ms a call"),
    Row("ONNX file, FFN 512-2048-512", "onnx-cpu.csv", "FFN 512-2048-512, batch 16, {level}%", "bytes"),
    Row(
        "the same with sparse initializers",
        "onnx-cpu.csv",
        "FFN 512-2048-512, batch 16, {level}%, sparse initializers",
        "bytes",
    ),
)
SHORT = {
    "sparse file, MiniLM, bfloat16",
    "MiniLM, a sentence of 32 tokens",
    "FFN 512-2048-512, batch 16",
    "4096 x 4096 Linear, bf16, batch 1",
    "4096 x 4096 Linear, bf16, batch 8",
    "onnxruntime, FFN 512-2048-512, batch 16",
}


def lines(file: str, folder: Path = FOLDER / "measured") -> list[Line]:
    """The raw rows of a file; none where it is not there."""
    path = folder / file
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as opened:
        return [each for line in csv.DictReader(opened) for each in _each_level(line)]


def _each_level(line: Line) -> list[Line]:
    """A line of file sizes, whose unit names the levels of its numbers, as a line for each level."""
    levels = re.fullmatch(rf"{TIMES} \((.*)\)", line["unit"])
    if not levels:
        return [line]
    weights, _, kind = line["variant"].partition(", ")
    pairs = zip(levels[1].split("; "), line["values"].split(), strict=True)
    return [
        {**line, "variant": f"{weights}, {level}, {kind}", "unit": TIMES, "values": value, "n": "1"}
        for level, value in pairs
    ]


def find(found: Sequence[Line], variant: str, unit: str) -> Line | None:
    """The last line of a variant: a later measurement replaces an earlier one."""
    return next((line for line in reversed(found) if (line["variant"], line["unit"]) == (variant, unit)), None)


def gain(found: Sequence[Line], variant: str, unit: str) -> float | None:
    """The reference's median divided by the variant's; None where either was not measured."""
    line = find(found, variant, unit)
    if line and unit == TIMES:
        return median(float(value) for value in line["values"].split())
    reference = find(found, line["reference"], unit) if line else None
    if line is None or reference is None:
        return None
    own, other = ([float(value) for value in one["values"].split()] for one in (line, reference))
    return median(other) / median(own)


def cells(row: Row, found: Sequence[Line]) -> list[str]:
    """The gains at each level, as text."""
    texts = []
    for level in LEVELS:
        name = row.names().get(level)
        value = gain(found, name, row.unit) if name else None
        texts.append("–" if name is None else MISSING if value is None else f"{value:.3g}")
    return texts


def machine(used: Sequence[Line]) -> str:
    """What the lines were measured on."""
    each = dict.fromkeys(
        line["processor"] + (f", {line['threads']} thread{'s' * (line['threads'] != '1')}") * (line["device"] == "cpu")
        for line in used
    )
    return "; ".join(each)


def used(row: Row, found: Sequence[Line]) -> list[Line]:
    """The lines behind a row's cells."""
    names = set(row.names().values())
    return [line for line in found if line["variant"] in names and line["unit"] == row.unit]


def gains(rows: Sequence[Row] = ROWS) -> str:
    """The table of gains."""
    made = []
    for row in rows:
        found = lines(row.file)
        behind = used(row, found)
        counts = "/".join(dict.fromkeys(line["n"] for line in behind)) or "–"
        made.append([row.what, *cells(row, found), machine(behind) or MISSING, counts])
    return markdown(["× dense", *(f"{level} %" for level in LEVELS), "hardware", "n"], made)


def in_short() -> str:
    """The gains that a reader asks for first."""
    return gains([row for row in ROWS if row.what in SHORT])


def shrunk() -> str:
    """The table of smaller dense models, whose sparsity is that of their units."""
    found = lines(SHRUNK)
    made = []
    for line in found:
        name, _, kind = line["variant"].rpartition(", whole, ")
        value = gain(found, line["variant"], line["unit"])
        if kind == "shrunk" and value is not None:
            made.append([f"LeNet-5, {name}", f"{value:.3g}", machine([line]), line["n"]])
    return markdown(["× dense", "batch 256", "hardware", "n"], made or [["LeNet-5", MISSING, MISSING, "–"]])


def sources() -> str:
    """Which command measured what, with its versions."""
    made = []
    for file in dict.fromkeys([*(row.file for row in ROWS), SHRUNK]):
        own_rows = [row for row in ROWS if row.file == file]
        behind = [line for row in own_rows for line in used(row, lines(file))] if own_rows else lines(file)
        for command in dict.fromkeys(line["command"] for line in behind):
            own = [line for line in behind if line["command"] == command]
            versions = ", ".join(dict.fromkeys(f"torch {line['torch']}, Python {line['python']}" for line in own))
            commits = ", ".join(dict.fromkeys(line["commit"] or "–" for line in own))
            place = f"[measured/{file}](../benchmarks/measured/{file})"
            made.append([f"`python benchmarks/{command}`", place, machine(own), versions, commits])
    return markdown(["command", "raw rows", "hardware", "versions", "commit"], made)


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows])


TABLES: dict[str, Callable[[], str]] = {"gains": gains, "short": in_short, "shrunk": shrunk, "sources": sources}
MARKED = re.compile(r"(<!-- table (\w+): benchmarks/hardware\.py -->\n)(.*?)(<!-- end -->)", re.S)


def written(text: str) -> str:
    """The page with its tables made again."""
    return MARKED.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[4]}", text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8")
