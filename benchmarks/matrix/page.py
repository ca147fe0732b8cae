"""docs/compatibility.md: written from the computed cells, and read back."""

import importlib.metadata
import platform
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import openwork as ow

from .optimizers import NAMES, split
from .outcome import Outcome, Status
from .runner import COLUMNS, ROWS, Table
from .training import Row

COMMON = [row for row in ROWS if not row.only]
SIGNS: dict[Status, str] = {"pass": "✓", "refused": "⊘", "fail": "✗", "n/a": "–"}
INTRODUCTION = """\
Every cell is a program that was run: a few training steps with the library at hand, then a check of the claim. None is
typed by hand; `benchmarks/compatibility.py` writes this page.

✓ the claim holds · ⊘ the library itself refuses and says why · ✗ the claim does not hold, or there is an error · – does
not apply. The number is that of the first line of the error below.

Each library is used as its documentation says. openwork ramps to the target sparsity in the middle of training, the
peers reach it there in one step. Unless a row says otherwise: AdamW, 75 % of each tensor to within one weight.
Variational dropout and L0 have no target; with them every tensor must have zeros in evaluation and at the end.
"""

OPTIMIZERS = """\
Each under openwork's masks, with its default settings; – where it does not train the dense model here either, or its
package is missing. `SAM.second_step` is a loop that calls `first_step` and `second_step` instead of `step(closure)`.
"""


def render(table: Table, where: str) -> str:
    """The whole page; ``where``: versions and hardware, as `environment` says them."""
    notes: list[str] = []
    titles = [library.title for library in COLUMNS.values()]
    counts = [
        f"| {SIGNS[status]} {status} | "
        + " | ".join(str(sum(table[row.title, key].status == status for row in COMMON)) for key in COLUMNS)
        + " |"
        for status in SIGNS
    ]
    lines = ["# Compatibility", "", INTRODUCTION, where, ""]
    lines += ["```sh", "make compatibility", "```", ""]
    lines += ["## Counts", "", *_head(["", *titles]), *counts, ""]
    for kind, heading in (("layer", "Layers"), ("habit", "Habits")):
        lines += [f"## {heading}", "", *_head([kind, *titles])]
        for row in ROWS:
            if row.kind == kind:
                cells = [_cell(table[row.title, key], notes) for key in COLUMNS]
                lines.append(f"| {row.title} | {' | '.join(cells)} |")
        lines.append("")
    lines += ["## Optimizers", "", OPTIMIZERS, *_head(["package", "", "optimizers"]), *_optimizers(table, notes), ""]
    lines += ["## First lines", "", *[f"{number}. {text}" for number, text in enumerate(notes, 1)], ""]
    lines += ["## What is checked", "", *_claims(ROWS), ""]
    return "\n".join(lines)


def parse(text: str) -> Table:
    """The cells of a page, with their reasons; the reverse of `render`."""
    status_of = {sign: status for status, sign in SIGNS.items()}
    notes = dict(re.findall(r"^(\d+)\. (.*)$", text, re.M))
    table: Table = {}
    for package, sign, names in re.findall(r"^\| `([\w.]+)` \| ([✓✗⊘–]) \d+ \| (.*) \|$", text, re.M):
        for name, _, number in (entry.partition(" ") for entry in names.split(", ")):
            reason = _unquote(notes[number]) if number else ""
            table[f"{package}.{name}", "openwork"] = Outcome(status_of[sign], reason)
    for row in COMMON:
        line = re.search(rf"^\| {re.escape(row.title)} \| ([✓✗⊘–].*) \|$", text, re.M)
        if line is None:
            continue
        for key, cell in zip(COLUMNS, line[1].split(" | "), strict=True):
            sign, _, number = cell.partition(" ")
            table[row.title, key] = Outcome(status_of[sign], _unquote(notes[number]) if number else "")
    return table


def environment() -> str:
    """Versions and hardware, in a sentence."""
    versions = [
        f"{name} {_version(name)}"
        for name in ("torch", "nncf", "torchao", "transformers", "pytorch_optimizer", "bitsandbytes")
    ]
    software = f"Python {platform.python_version()}, openwork {ow.__version__}, {', '.join(versions)}"
    return f"{software}; {platform.system()}, {_processor()}, one thread a process."


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        found = re.search(r"^model name\s*: (.*)$", information.read_text(), re.M)
        if found is not None:
            return found[1]
    return platform.processor() or platform.machine()


def _head(titles: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]


def _optimizers(table: Table, notes: list[str]) -> Iterator[str]:
    """A line for each package and status, with the names and the numbers of their reasons."""
    for package in NAMES:
        for status, sign in SIGNS.items():
            cells = {row: table[row.title, row.only] for row in ROWS if row.only and split(row.title)[0] == package}
            named = [
                split(row.title)[1] + _cell(cell, notes).removeprefix(sign)
                for row, cell in cells.items()
                if cell.status == status
            ]
            if named:
                yield f"| `{package}` | {sign} {len(named)} | {', '.join(named)} |"


def _cell(cell: Outcome, notes: list[str]) -> str:
    if not cell.text:
        return SIGNS[cell.status]
    text = _quote(cell.text)
    if text not in notes:
        notes.append(text)
    return f"{SIGNS[cell.status]} {notes.index(text) + 1}"


def _quote(text: str) -> str:
    """As code, which Markdown leaves alone."""
    return "`` " + text.replace("``", "'") + " ``"


def _unquote(text: str) -> str:
    return text.removeprefix("`` ").removesuffix(" ``")


def _claims(rows: Sequence[Row]) -> list[str]:
    claims: dict[str, list[str]] = {}
    for row in rows:
        claims.setdefault(row.claim, []).append(row.title if row.kind == "habit" else f"every {row.kind}")
    return [f"* **{', '.join(dict.fromkeys(titles))}**: {claim}." for claim, titles in claims.items()]
