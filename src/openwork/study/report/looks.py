"""How each technique looks: one colour on every page and picture, and a shape for each way of using it.

The colours are those of Okabe & Ito, "Color Universal Design", 2008, and for further techniques those of Tol, "Colour
schemes", 2021 (muted), brightened for a dark page. No reading depends on colour alone, as shapes differ, too.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    ("#661100", "#b0683f"),
)
DARK = dict(_COLOURS)
"""The colour on a dark page of each on a light one."""

_KNOWN = ("GradualMagnitude", "L0", "RandomPruning", "VariationalDropout", "RigL", "Movement",
          "SET", "SNIP", "Wanda", "PruneRetrain", "GroupL0", "DynamicSurgery", "SoftWeightSharing")  # fmt: skip
_LOOKS = {name: (_COLOURS[i][0], SHAPES[i % len(SHAPES)]) for i, name in enumerate(_KNOWN)}
_WORDS = {
    "magnitude pruning": "GradualMagnitude",
    "random pruning": "RandomPruning",
    "variational dropout": "VariationalDropout",
    "magnitude, 1.5 × steps, not uniform": "GradualMagnitude, extended",
}
"""The words of the paper's figures (`paper.LABELS`) -> openwork's names."""


def look(name: str) -> tuple[str, str]:
    """The colour on a light page and the shape of a technique that is drawn alone."""
    return looks([name])[name]


def looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The colour on a light page and the shape of techniques that are drawn together, no two alike.

    Both follow from the name. A technique that openwork does not know takes another colour where its own is taken, and
    a variant, "GradualMagnitude, extended", has its technique's colour and another shape.

    Args:
        names: The techniques' names, with their variants.
    """
    parts = {name: _WORDS.get(name, name).partition(", ") for name in names}
    colours: dict[str, str] = {}
    for technique in sorted({base for base, _, _ in parts.values()}, key=lambda base: (base not in _LOOKS, base)):
        taken = [*colours.values()]
        free = sorted(_from(technique, [light for light, _ in _COLOURS]), key=taken.count)
        colours[technique] = _LOOKS[technique][0] if technique in _LOOKS else free[0]
    found: dict[str, tuple[str, str]] = {}
    for name, (technique, _, variant) in sorted(parts.items(), key=lambda item: (bool(item[1][2]), item[0])):
        own = _LOOKS[technique][1] if technique in _LOOKS else _from(technique, SHAPES)[0]
        shapes = [own, *_from(technique, SHAPES)]
        if variant:
            shapes = [*_from(variant, [shape for shape in SHAPES if shape != own]), own]
        looked = [*found.values()]
        shape = next((shape for shape in shapes if (colours[technique], shape) not in looked), shapes[0])
        found[name] = colours[technique], shape
    return {name: found[name] for name in names}


def _from(word: str, choices: Sequence[str]) -> list[str]:
    """The choices from the one that follows from the word on, and then those before it."""
    start = crc32(word.encode()) % len(choices)
    return [*choices[start:], *choices[:start]]


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
