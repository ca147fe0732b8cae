"""How each technique looks: one colour on every page and picture, and a shape for each way of using it.

The colours are those of Okabe & Ito, "Color Universal Design", 2008, and for further techniques those of Tol, "Colour
schemes", 2021 (muted), brightened for a dark page. No reading depends on colour alone, as shapes differ, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any
from zlib import crc32

if TYPE_CHECKING:
    import altair as alt

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
_COLOURS = (  # on a light page, on a dark one
    ("#0072b2", "#3d8fd6"),
    ("#d55e00", "#ee7733"),
    ("#009e73", "#1fb58a"),
    ("#cc79a7", "#e07fbf"),
    ("#e69f00", "#f2c94c"),
    ("#56b4e9", "#b5e3ff"),
    ("#332288", "#8f7ee0"),
    ("#882255", "#c0558a"),
    ("#999933", "#cfcf5a"),
    ("#117733", "#4dbb6d"),
    ("#aa4499", "#d987cc"),
    ("#6b6b6b", "#b0b0b0"),
)
DARK = dict(_COLOURS)
"""The colour on a dark page of each on a light one."""

_KNOWN = ("GradualMagnitude", "L0", "RandomPruning", "VariationalDropout", "RigL", "Movement",
          "SET", "SNIP", "Wanda", "PruneRetrain", "GroupL0", "DynamicSurgery")  # fmt: skip
_LOOKS = {name: (_COLOURS[i][0], SHAPES[i % len(SHAPES)]) for i, name in enumerate(_KNOWN)}
_WORDS = {
    "magnitude pruning": "GradualMagnitude",
    "random pruning": "RandomPruning",
    "variational dropout": "VariationalDropout",
    "magnitude, longer, not uniform": "GradualMagnitude, extended",
}
"""The paper's techniques by openwork's names."""


def look(name: str, taken: Sequence[tuple[str, str]] = ()) -> tuple[str, str]:
    """The colour on a light page and the shape of a technique, which follow from its name.

    A variant, "GradualMagnitude, extended", has its technique's colour and another shape.

    Args:
        name: The technique's name, with its variant.
        taken: The looks of others, which it cannot have.
    """
    name = _WORDS.get(name, name)
    technique, _, variant = name.partition(", ")
    number = crc32(technique.encode())
    colour, shape = _LOOKS.get(technique) or (_COLOURS[number % len(_COLOURS)][0], SHAPES[number % len(SHAPES)])
    if variant:
        shapes = [other for other in SHAPES if other != shape]
        shape = shapes[crc32(variant.encode()) % len(shapes)]
    wanted = (colour, shape)
    # Another shape first, then another colour.
    others = product([colour, *(light for light, _ in _COLOURS)], SHAPES)
    return next((each for each in (wanted, *others) if each not in taken), wanted)


def looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The looks of techniques that are drawn together, no two alike; those that openwork knows keep theirs."""
    found: dict[str, tuple[str, str]] = {}
    for name in sorted(names, key=lambda name: (_WORDS.get(name, name) not in _LOOKS, name)):
        found[name] = look(name, [*found.values()])
    return {name: found[name] for name in names}


def encoded(names: Sequence[str], legend: alt.Legend | None) -> dict[str, Any]:
    """The channels ``color`` and ``shape`` of a chart's field ``technique``.

    Args:
        names: The techniques.
        legend: Of both.
    """
    import altair as alt

    found = looks(names)
    colours, shapes = [colour for colour, _ in found.values()], [shape for _, shape in found.values()]
    return {
        "color": alt.Color("technique:N").scale(domain=[*found], range=colours).legend(legend),
        "shape": alt.Shape("technique:N").scale(domain=[*found], range=shapes).legend(legend),
    }
