"""docs/compatibility.md: written from the computed cells, and read back."""

import importlib.metadata
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import openwork as ow

from .outcome import Outcome, Status
from .runner import COLUMNS, ROWS, Table
from .training import Row

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


def render(table: Table, where: str) -> str:
    """The whole page; ``where``: versions and hardware, as `environment` says them."""
    notes: list[str] = []
    titles = [library.title for library in COLUMNS.values()]
    counts = [
        f"| {SIGNS[status]} {status} | "
        + " | ".join(str(sum(table[row.title, key].status == status for row in ROWS)) for key in COLUMNS)
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
    lines += ["## First lines", "", *[f"{number}. {text}" for number, text in enumerate(notes, 1)], ""]
    lines += ["## What is checked", "", *_claims(ROWS), ""]
    return "\n".join(lines)


def parse(text: str) -> Table:
    """The cells of a page, with their reasons; the reverse of `render`."""
    status_of = {sign: status for status, sign in SIGNS.items()}
    notes = dict(re.findall(r"^(\d+)\. (.*)$", text, re.M))
    table: Table = {}
    for row in ROWS:
        line = re.search(rf"^\| {re.escape(row.title)} \| ([✓✗⊘–].*) \|$", text, re.M)
        if line is None:
            continue
        for key, cell in zip(COLUMNS, line[1].split(" | "), strict=True):
            sign, _, number = cell.partition(" ")
            table[row.title, key] = Outcome(status_of[sign], _unquote(notes[number]) if number else "")
    return table


def environment() -> str:
    """Versions and hardware, in a sentence."""
    versions = [f"{name} {_version(name)}" for name in ("torch", "nncf", "torchao", "transformers")]
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
        claims.setdefault(row.claim, []).append("every layer" if row.kind == "layer" else row.title)
    return [f"* **{', '.join(dict.fromkeys(titles))}**: {claim}." for claim, titles in claims.items()]
