"""What `shrink` gives: the smaller model, what it lost, and what it kept in spite of zeros."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from openwork.core.names import few
from openwork.inspect.table import short
from openwork.words import printable


@dataclass(frozen=True)
class ShrunkTensor:
    """One parameter or buffer that the model's operations read.

    Args:
        name: Its name, the same in both models.
        before: Its shape in the model that was given.
        now: Its shape in the smaller model.
        kept: How many outputs and inputs stayed though it is zero for all of them, by side and reason.
    """

    name: str
    before: tuple[int, ...]
    now: tuple[int, ...]
    kept: dict[tuple[str, str], int]


@dataclass(frozen=True)
class Shrunk:
    """A smaller dense model with the same outputs, and what became of the units of the one before; prints as a table.

    Args:
        model: The smaller model.
        tensors: Its parameters and the buffers of batch norms, in the model's order.
        bytes: What parameters and buffers hold, before and now.
        flops: Of one forward pass of the example, before and now: what `report` counts as dense.
        difference: The largest difference between the outputs for the example, as a fraction of the largest output.
    """

    model: nn.Module
    tensors: tuple[ShrunkTensor, ...]
    bytes: tuple[int, int]
    flops: tuple[int, int]
    difference: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "bytes": {"before": self.bytes[0], "now": self.bytes[1]},
            "flops": {"before": self.flops[0], "now": self.flops[1]},
            "difference": self.difference,
            "tensors": [
                {"name": t.name, "before": list(t.before), "now": list(t.now), "kept": _plain(t.kept)}
                for t in self.tensors
            ],
        }

    def __str__(self) -> str:
        changed = [t for t in self.tensors if t.now != t.before and len(t.before) > 1]
        rows = [(t.name, "x".join(map(str, t.before)), "x".join(map(str, t.now))) for t in changed]
        width, before, now = (max((len(row[column]) for row in rows), default=0) for column in range(3))
        lines = [
            f"{_change(self.bytes, 'B')}, {_change(self.flops, '')} FLOPs for the example; outputs differ by "
            f"{self.difference:.1g} of the largest",
            *(f"{row[0]:{width}}  {row[1]:>{before}} -> {row[2]:>{now}}" for row in rows),
        ]
        if not rows:
            lines.append(
                "nothing was removed: no unit is dead that could go; GroupL0, Rows() and Columns() make such ones"
            )
        for why, counts in self._kept().items():
            totals = {side: sum(c.values()) for side, c in counts.items()}
            many = ", ".join(f"{n:,} {side if n > 1 else side[:-1]}" for side, n in totals.items())
            names = dict.fromkeys(name for c in counts.values() for name in c)
            lines.append(f"kept though zero, {many} of {few(names)}: {why}")
        return "\n".join(map(printable, lines))

    def _kept(self) -> dict[str, dict[str, dict[str, int]]]:
        """Reason -> side -> tensor -> how many stayed."""
        found: dict[str, dict[str, dict[str, int]]] = {}
        for tensor in self.tensors:
            for (side, why), count in tensor.kept.items():
                found.setdefault(why, {}).setdefault(side, {})[tensor.name] = count
        return found


def _plain(kept: dict[tuple[str, str], int]) -> list[dict[str, Any]]:
    return [{"side": side, "why": why, "count": count} for (side, why), count in kept.items()]


def _change(pair: tuple[int, int], unit: str) -> str:
    before, now = pair
    factor = f" ({before / now:.2f} x)" if now else ""
    return f"{short(before, unit)} -> {short(now, unit)}{factor}"
