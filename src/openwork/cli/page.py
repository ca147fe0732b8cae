"""The part of docs/cli.md that the commands themselves say: ``python -m openwork.cli.page docs/cli.md``."""

import sys
from collections.abc import Callable, Iterator
from inspect import Parameter, cleandoc, signature
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from typer.models import OptionInfo

from openwork.cli import PANELS
from openwork.cli.examples import EXAMPLES

MARK = "<!-- commands -->\n"
"""What follows it in docs/cli.md is made here."""


def commands() -> str:
    """All commands with their examples, arguments and options, as Markdown."""
    text = ""
    for panel, found in PANELS.items():
        text += f"\n## {panel}\n"
        for name, command in found.items():
            text += "\n" + _section(name, command)
    return text


def _section(name: str, command: Callable[..., None]) -> str:
    rows, arguments = [], []
    for word, takes, default, about in parameters(command):
        arguments += [] if word.startswith("-") else [word]
        rows.append(f"| `{f'{word} {takes}'.rstrip()}` | {about} | {default} |")
    examples = [(f"openwork {name} {given}".rstrip(), remark) for given, remark in EXAMPLES[name]]
    shown = "\n".join(f"{line}  # {remark}" for line, remark in examples)
    usage = " ".join(["openwork", name, *arguments])
    table = "\n".join(["| argument or option | what it is | default |", "|---|---|---|", *rows])
    return f"### {name}\n\n`{usage}`\n\n{cleandoc(command.__doc__ or '')}\n\n```sh\n{shown}\n```\n\n{table}\n"


def parameters(command: Callable[..., None]) -> Iterator[tuple[str, str, str, str]]:
    """Of each argument and option that is not hidden: its word, what it takes, its default and what it does."""
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in signature(command).parameters.items():
        kind, info = _unpacked(hints[name])
        if info.hidden:
            continue
        option = isinstance(info, OptionInfo)
        given = [each for each in (info.default, *(info.param_decls or ())) if str(each).startswith("--")]
        word = next(iter(given), f"--{name.replace('_', '-')}") if option else info.metavar or name.upper()
        default = _default(parameter.default)
        about = (info.help or "").replace("|", "\\|").replace("\n", " ")
        repeated = " Repeatable." if option and get_origin(kind) is list and "epeatable" not in about else ""
        yield word, _takes(kind, info.metavar).replace("|", "\\|") if option else "", default, about + repeated


def _unpacked(hint: Any) -> tuple[Any, Any]:
    """The type without None, and typer's words about it."""
    optional = [part for part in get_args(hint) if get_origin(part) is Annotated]
    kind, info = get_args(optional[0] if optional else hint)
    kinds = [part for part in get_args(kind) if part is not NoneType]
    return (kinds[0] if NoneType in get_args(kind) and len(kinds) == 1 else kind), info


def _takes(kind: Any, metavar: str | None) -> str:
    if kind is bool:
        return ""
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    inner = get_args(kind)[0] if get_origin(kind) is list else kind
    return metavar or {int: "N", float: "NUMBER", Path: "PATH"}.get(inner, "TEXT")


def _default(value: Any) -> str:
    if value is Parameter.empty:
        return "required"
    return "" if value is None or value is False else f"`{value}`"


if __name__ == "__main__":
    file = Path(sys.argv[1])
    kept, mark, _ = file.read_text(encoding="utf-8").partition(MARK)
    file.write_text(kept + mark + commands(), encoding="utf-8")
