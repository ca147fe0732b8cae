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
_PALETTE = (  # on a light page, on a dark one, and whose it is: those of one colour are seldom drawn together
    ("#0072b2", "#3d8fd6", "GradualMagnitude"),
    ("#d55e00", "#ee7733", "L0", "SparseGPT"),
    ("#009e73", "#1fb58a", "RandomPruning"),
    ("#cc79a7", "#e07fbf", "VariationalDropout", "ADMM", "LotteryTicket"),
    ("#e69f00", "#f2c94c", "RigL", "FORCE", "RIA", "Scratch"),
    ("#56b4e9", "#b5e3ff", "Movement", "SRSTE", "ALPS", "Retrained"),
    ("#332288", "#8f7ee0", "SET", "SoftMovement", "DSnoT"),
    ("#882255", "#c0558a", "SNIP", "OBS", "Rewound"),
    ("#999933", "#cfcf5a", "Wanda", "SynFlow"),
    ("#117733", "#4dbb6d", "PruneRetrain", "ACDC"),
    ("#aa4499", "#d987cc", "GroupL0", "GraSP"),
    ("#6b6b6b", "#b0b0b0", "DynamicSurgery", "STR"),
    ("#661100", "#b0683f", "SoftWeightSharing", "TopKAST"),
)
_SHIFTS = (0, 3, 5, 1)  # from the shape of the first of a colour to those of the others
DARK = {light: dark for light, dark, *_ in _PALETTE}
"""The colour on a dark page of each on a light one."""

_LOOKS = {
    name: (light, SHAPES[(row + shift) % len(SHAPES)])
    for row, (light, _, *names) in enumerate(_PALETTE)
    for name, shift in zip(names, _SHIFTS, strict=False)
}
_WORDS = {
    "magnitude pruning": "GradualMagnitude",
    "magnitude": "GradualMagnitude",
    "magnitude, uniform": "GradualMagnitude",
    "magnitude, global ranking": "GradualMagnitude, global ranking",
    "global magnitude": "GradualMagnitude, global ranking",
    "magnitude, Erdős–Rényi": "GradualMagnitude, Erdős–Rényi",
    "magnitude, 1.5 × steps, not uniform": "GradualMagnitude, extended",
    "random pruning": "RandomPruning",
    "random": "RandomPruning",
    "random at the start, Erdős–Rényi": "RandomPruning, Erdős–Rényi",
    "variational dropout": "VariationalDropout",
    "group L0": "GroupL0",
    "RigL, uniform": "RigL",
    "AC/DC": "ACDC",
    "Top-KAST": "TopKAST",
    "OWL": "Wanda, OWL",
    "movement": "Movement",
    "Han 2015": "PruneRetrain",
    "dynamic surgery": "DynamicSurgery",
    "soft weight sharing": "SoftWeightSharing",
    "lottery ticket": "LotteryTicket",
    "lottery ticket, rewound": "Rewound",
    "rewound to 120": "Rewound, 120",
    "rewound to 600": "Rewound, 600",
    "rewound to 2400": "Rewound, 2400",
}
"""What figures of the paper and of the studies call a technique -> openwork's name of it."""

_ENDS = "length(datum.label) <= 29 ? datum.label : slice(datum.label, 0, 14) + '…' + slice(datum.label, -14)"
"""What a legend says, in the width that the theme gives a name: variants of one technique often differ at the end."""


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
        free = sorted(_from(technique, [*DARK]), key=taken.count)
        colours[technique] = _LOOKS[technique][0] if technique in _LOOKS else free[0]

    def order(item: tuple[str, tuple[str, str, str]]) -> tuple[bool, bool, str]:
        name, (technique, _, variant) = item
        return bool(variant), technique not in _LOOKS, name  # what is known keeps its shape

    found: dict[str, tuple[str, str]] = {}
    for name, (technique, _, variant) in sorted(parts.items(), key=order):
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
    if legend is not None:
        legend = legend.copy()
        legend.labelExpr = _ENDS
    colours, shapes = [colour for colour, _ in found.values()], [shape for _, shape in found.values()]
    return {
        "color": alt.Color("technique:N").scale(domain=[*found], range=colours).legend(legend),
        "shape": alt.Shape("technique:N").scale(domain=[*found], range=shapes).legend(legend),
    }
