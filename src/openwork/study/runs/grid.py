"""Settings with several values: a run for each."""

import dataclasses
from collections.abc import Iterable
from itertools import product
from typing import Any

from openwork.study.runs.config import override


def grid(value: Any, settings: Iterable[str]) -> list[Any]:
    """A copy of the dataclass ``value`` for each combination of the settings' values; that of the last varies first.

    ``seed=0,1,2`` has three values. A field that holds a tuple has several if each is one: ``sizes=(1,2),(3,4)``.

    Args:
        value: The dataclass.
        settings: As `override` takes them, or with commas between values.

    Raises:
        ValueError: As `override` does; and if a value is missing between commas, or there twice.
    """
    choices = [[f"{path}={one}" for one in _values(value, path, text)] if equals else [setting]
               for setting in settings for path, equals, text in [setting.partition("=")]]  # fmt: skip
    return [override(value, chosen) for chosen in product(*choices)]


def _values(value: Any, path: str, text: str) -> list[str]:
    parts = [part.strip() for part in _split(text)]
    if len(parts) == 1:
        return [text]
    if isinstance(_old(value, path), tuple) and not all(part[:1] in ("(", "[") for part in parts):
        return [text]  # one tuple
    if "" in parts:
        raise ValueError(f"{path}={text!r} has a comma and no value beside it; write {path}=0,1,2")
    if len(set(parts)) < len(parts):
        raise ValueError(f"{path}={text!r} has a value twice; each value makes one run")
    return parts


def _split(text: str) -> list[str]:
    """At the commas outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        else:
            depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def _old(value: Any, path: str) -> Any:
    """What the field holds now; None where there is no such field, which `override` says."""
    for name in path.split("."):
        value = getattr(value, name, None) if dataclasses.is_dataclass(value) else None
    return value
