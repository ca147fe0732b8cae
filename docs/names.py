"""Writes the tables of docs/api.md from the docstrings of the names that docs/reference lists.

A table stands between ``<!-- names PAGE: docs/names.py -->`` and ``<!-- end -->``; PAGE is a file of docs/reference.

Run: python docs/names.py
"""

import inspect
import re
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import openwork as ow

DOCS = Path(__file__).parent
PAGE = DOCS / "api.md"
MARKED = re.compile(r"(<!-- names ([\w-]+): docs/names\.py -->\n).*?(<!-- end -->)", re.S)
SHARED = {"criterion", "hidden"}
"""Settings of every mask technique, which the page explains once."""


def named(page: str) -> list[str]:
    """The names that a page of the reference documents, in its order."""
    return re.findall(r"^\.\. auto\w+:: (\w+)$", (DOCS / "reference" / f"{page}.md").read_text(encoding="utf-8"), re.M)


def default(value: Any) -> str:
    """A default, as a caller writes it."""
    return value.__name__ if inspect.isfunction(value) else repr(value).replace("'", '"')


def takes(name: str) -> str:
    """What a function or a value of settings takes, with defaults; of other classes their public methods."""
    value = getattr(ow, name)
    if not inspect.isclass(value):
        parameters = inspect.signature(value).parameters.values()
        parts = [(p.name if p.kind is not p.VAR_POSITIONAL else f"*{p.name}", p.default) for p in parameters]
        return ", ".join(n if one is inspect.Parameter.empty else f"{n}={default(one)}" for n, one in parts)
    if is_dataclass(value) and not inspect.isabstract(value):
        own = [field for field in fields(value) if field.init and field.name[0] != "_" and field.name not in SHARED]
        # A penalty has no factor by default.
        needs_factor = getattr(value, "penalised", False)
        needed = {f.name for f in own if f.name == "coefficient" and f.default is None and needs_factor}
        free = {f.name for f in own if f.default is not MISSING} - needed
        return ", ".join(f"{f.name}={default(f.default)}" if f.name in free else f.name for f in own)
    methods = [f"{n}()" for n, member in vars(value).items() if inspect.isfunction(member) and n[0] != "_"]
    return ", ".join(methods)


def first_line(name: str) -> str:
    """What a name is or does, in Markdown."""
    line = (getattr(ow, name).__doc__ or "").splitlines()[0]
    return line.replace("``", "`").replace("|", r"\|")


def table(page: str) -> str:
    """A line for each name of a page of the reference."""
    lines = ["| name | is or does | takes |", "|---|---|---|"]
    for name in named(page):
        arguments = takes(name)
        lines.append(
            f"| `{name}` | {first_line(name)} | {f'`{arguments}`' if arguments else ''} |".replace("|  |", "| |")
        )
    return "\n".join(lines)


def written(text: str) -> str:
    """The page with its tables made again."""
    return MARKED.sub(lambda found: f"{found[1]}\n{table(found[2])}\n\n{found[3]}", text)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
