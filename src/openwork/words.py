"""Numbers and names in sentences; imports nothing of openwork, so that everything may import it."""

import unicodedata


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
    those that turn the direction of writing or have no width.
    """
    if text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in _OBEYED else c for c in text)


def one_line(text: str) -> str:
    """As `printable`, and with escapes for bytes that are no text, too, which no file in UTF-8 can hold."""
    return printable(text).encode(errors="backslashreplace").decode()


_OBEYED = ("Cc", "Cf", "Zl", "Zp")
