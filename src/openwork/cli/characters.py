"""Terminals that do not know all characters, as where the locale is C or cp1252: what is printed there instead."""

import codecs
import io
import sys
import unicodedata

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


def _alike(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character, after = error.object[error.start], error.start + 1
    if "\udc80" <= character <= "\udcff":  # a byte of a file's name that is no text
        return bytes([ord(character) - 0xDC00]), after
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return _ALIKE.get(character) or plain or "?", after
