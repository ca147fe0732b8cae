"""What `permute` gives: how much the masks keep, before and now."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openwork.core.masks.rows import NM
from openwork.core.names import few
from openwork.words import printable

Kept = tuple[float, float, float]
"""The sum of a weight's scores, and what its mask keeps of it before and now."""


@dataclass(frozen=True)
class PermutedGroup:
    """Weights that read the same channels, whose order is therefore one.

    Args:
        channels: How many channels may change places with each other; several numbers where they are kept apart, as
            those of attention heads.
        kept: The sum of each weight's scores, and what its mask keeps of it before and now, by the weight's name.
    """

    channels: tuple[int, ...]
    kept: Mapping[str, Kept]

    @property
    def before(self) -> float:
        """The fraction of the scores that the masks would have kept."""
        return _fraction(self.kept, 1)

    @property
    def now(self) -> float:
        """The fraction of the scores that the masks keep."""
        return _fraction(self.kept, 2)


@dataclass(frozen=True)
class Permuted:
    """What `permute` did to a model; prints as a table.

    Args:
        pattern: The pattern.
        groups: The groups of channels that may change places.
        others: The weights whose inputs keep their order, as those that read the model's input, with what is kept.
        unread: The parameters that the model did not read for the example, and that keep their order. Where other code
            reads them together with a channel that has moved, as a head that runs in training only, it is wrong now.
        difference: The largest difference between the outputs for the example, as a fraction of the largest output.
        complete: Whether the search came to its end before its time was over.
    """

    pattern: NM
    groups: tuple[PermutedGroup, ...]
    others: Mapping[str, Kept]
    unread: tuple[str, ...]
    difference: float
    complete: bool

    @property
    def before(self) -> float:
        """The fraction of all scores that the masks would have kept."""
        return _fraction(self._all, 1)

    @property
    def now(self) -> float:
        """The fraction of all scores that the masks keep."""
        return _fraction(self._all, 2)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "pattern": [self.pattern.n, self.pattern.m],
            "kept": {"before": self.before, "now": self.now},
            "groups": [
                {
                    "channels": list(group.channels),
                    "before": group.before,
                    "now": group.now,
                    "weights": list(group.kept),
                }
                for group in self.groups
            ],
            "others": list(self.others),
            "unread": list(self.unread),
            "difference": self.difference,
            "complete": self.complete,
        }

    def __str__(self) -> str:
        rows = [
            (_sizes(group.channels), f"{group.before:.2%}", f"{group.now:.2%}", few(group.kept))
            for group in self.groups
        ]
        rows = [("channels", "before", "now", "read by"), *rows]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            f"{self.pattern} keeps {self.now:.2%} of the scores, {self.before:.2%} before; outputs differ by "
            f"{self.difference:.1g} of the largest",
            *(
                "  ".join([*(cell.rjust(width) for cell, width in zip(row, widths, strict=False)), row[3]])
                for row in rows
            ),
        ]
        if not self.groups:
            lines[1:] = ["no channels may change places whose order matters to these weights"]
        if self.others:
            lines.append(f"in the old order, as their inputs are fixed: {few(self.others)}")
        if self.unread:
            lines.append(f"not read for the example, and in the old order: {few(self.unread)}")
        if not self.complete:
            lines.append("the search ended by its time; give it more seconds")
        return "\n".join(map(printable, lines))

    @property
    def _all(self) -> dict[str, Kept]:
        found = dict(self.others)
        for group in self.groups:
            found |= group.kept
        return found


def _fraction(kept: Mapping[str, Kept], place: int) -> float:
    total = sum(one[0] for one in kept.values())
    return sum(one[place] for one in kept.values()) / total if total else 1.0


def _sizes(channels: tuple[int, ...]) -> str:
    """Their numbers in few words, as in 12 x 32 for those of heads."""
    counts = {size: channels.count(size) for size in dict.fromkeys(channels)}
    return " + ".join(f"{count} x {size}" if count > 1 else str(size) for size, count in counts.items())
