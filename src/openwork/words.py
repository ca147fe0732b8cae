"""Numbers and names in sentences; imports nothing of openwork, so that everything may import it."""

import unicodedata
from typing import Any


def count(n: int, noun: str, several: str = "") -> str:
    """``1 seed``, ``3 seeds``, ``1,200 matrices``.

    Args:
        n: How many.
        noun: What one is called.
        several: What several are called; "" for the noun with an s.
    """
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {several or f'{noun}s'}"


def number(value: float) -> str:
    """Six digits of a number, or all where these are another number: ``3``, ``0.0001``, ``3.0000001``."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def decimal(value: float, digits: int) -> str:
    """A number with so many digits after the point, or in powers of ten from a million on: ``0.123``, ``1.5e+299``."""
    return f"{value:.{digits}f}" if abs(value) < 1e6 else f"{value:.4g}"


def printable(text: str) -> str:
    """The text with escapes in the place of what a terminal obeys or does not show.

    Names in a file are whatever its writer made them. These are control characters, ends of lines among them, and
    those that turn the direction of writing or have no width; and bytes that are no text, which no UTF-8 can hold.
    """
    if text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in _OBEYED else c for c in text)


def printable_json(value: Any) -> Any:
    """A JSON value whose texts and names are `printable`."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): printable_json(part) for key, part in value.items()}
    return [printable_json(part) for part in value] if isinstance(value, list) else value


_OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")
