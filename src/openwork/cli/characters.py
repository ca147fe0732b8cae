"""What is printed instead of characters that a terminal does not know, as where the locale is C, or would obey."""

import codecs
import io
import sys
import unicodedata
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from openwork.words import printable

_ALIKE = {
    "→": "->", "←": "<-", "×": "x", "·": "*", "±": "+-", "≤": "<=", "≥": ">=", "≈": "~", "−": "-", "–": "-", "—": "-",
    "…": "...", "µ": "u", "μ": "u", "√": "sqrt", "“": '"', "”": '"', "‘": "'", "’": "'", "•": "*",
}  # fmt: skip
_HANDLER = "openwork.alike"


def print_what_can_be_printed() -> None:
    """Lets standard output and error print "->" or "?" for what their encoding lacks, instead of raising."""
    codecs.register_error(_HANDLER, _alike)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


class SafeConsole(Console):
    """A console that prints escapes in the place of characters that a terminal obeys: names in files may have any."""

    def render_str(self, text: str, **options: Any) -> Text:
        """The text as rich shows it, in tables, too."""
        return super().render_str("\n".join(map(printable, text.split("\n"))), **options)


class SafeTable(Table):
    """A table whose names and cells are one line each, however wide: an end of line in a name is an escape, too."""

    def __init__(self, *headers: Column | str, title: str | None = None, **options: Any) -> None:
        super().__init__(*map(_printable, headers), title=title and printable(title), **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Adds a row as rich does."""
        super().add_row(*map(_printable, cells), **options)


def _printable(part: Any) -> Any:
    return printable(part) if isinstance(part, str) else part


def _alike(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character, after = error.object[error.start], error.start + 1
    if "\udc80" <= character <= "\udcff":  # a byte of a file's name that is no text
        return bytes([ord(character) - 0xDC00]), after
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return _ALIKE.get(character) or plain or "?", after
