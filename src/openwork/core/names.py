"""Names of weights and layers: which pattern fits which, and what a misspelt one may have meant."""

import re
from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import Tensor, nn


def fits(pattern: str, name: str) -> bool:
    """Whether a shell pattern fits a weight's name (``fc3.weight``) or that of a module around it (``fc3``)."""
    return any(whole == pattern or fnmatchcase(whole, pattern) for whole in _around(name))


def nearest(pattern: str, names: Iterable[str]) -> str:
    """The names of weights and modules that a pattern which fits none may have meant, for an error.

    Args:
        pattern: The pattern.
        names: The weights' full names.
    """
    known = list(dict.fromkeys(whole for name in names for whole in _around(name)))
    plain = re.sub(r"[*?\[\]!]", "", pattern).strip(".")
    found = get_close_matches(plain, known, n=3, cutoff=0.5)
    if not found:  # a part of a name, such as the class's or only the last one
        found = [name for name in known if plain and plain.lower() in name.lower()][:3]
    if found:
        return f"did you mean {' or '.join(map(repr, found))}?"
    return f"its modules are {', '.join([name for name in known if '.' not in name][:12]) or 'none'}"


def few(names: Collection[str]) -> str:
    """Up to four names, or the first three and how many more there are."""
    if len(names) < 5:
        return ", ".join(names)
    return f"{', '.join(list(names)[:3])} and {len(names) - 3:,} more"


def listed(values: Iterable[object]) -> str:
    """The values as an error shows them: modules and tensors by their types."""
    kinds = nn.Module, Tensor
    return ", ".join(type(value).__name__ if isinstance(value, kinds) else repr(value) for value in values) or "nothing"


def _around(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:count]) for count in range(len(parts), 0, -1))
