"""What is printed instead of characters that a terminal does not know, as where the locale is C, or would obey."""

import codecs
import io
import sys
import unicodedata
from typing import Any

from rich.console import Console
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


def _alike(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character, after = error.object[error.start], error.start + 1
    if "\udc80" <= character <= "\udcff":  # a byte of a file's name that is no text
        return bytes([ord(character) - 0xDC00]), after
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return _ALIKE.get(character) or plain or "?", after
