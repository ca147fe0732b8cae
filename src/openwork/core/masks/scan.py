"""What a scan of a model's layers has found: as a table, as a picture, and as sparsities for the layers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from openwork.core.masks.allocations import PerLayer
from openwork.words import printable


@dataclass(frozen=True)
class SensitivityRow:
    """The metric with one layer pruned.

    Args:
        name: The weight's name.
        size: How many numbers it has.
        sparsity: The fraction of zeros in it, 0-1.
        metric: The model's metric then.
    """

    name: str
    size: int
    sparsity: float
    metric: float


@dataclass(frozen=True)
class Sensitivity:
    """How much each layer bears; printed as a table with a row for each layer and a column for each sparsity.

    Args:
        dense: The metric of the model as it is.
        rows: The metric for each layer and sparsity, layer after layer in the model's order.
        lower_is_better: Whether the metric is a loss or a perplexity.

    Raises:
        ValueError: If the dense model's metric is not finite.
    """

    dense: float
    rows: tuple[SensitivityRow, ...] = field(repr=False)
    lower_is_better: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.dense):
            raise ValueError(f"the metric of the model as it is is {self.dense}; check what evaluate measures")

    @property
    def layers(self) -> dict[str, list[SensitivityRow]]:
        """The rows of each layer, by its name, by rising sparsity."""
        found: dict[str, list[SensitivityRow]] = {}
        for row in self.rows:
            found.setdefault(row.name, []).append(row)
        return found

    def __str__(self) -> str:
        layers = self.layers
        width = max(map(len, layers))
        columns = next(iter(layers.values()))
        lines = [f"{'layer':<{width}}" + "".join(f"  {row.sparsity:>7.4g}" for row in columns)]
        lines += [f"{name:<{width}}" + "".join(f"  {row.metric:>7.4g}" for row in of) for name, of in layers.items()]
        return "\n".join(map(printable, [*lines, f"dense: {self.dense:.4g}"]))

    def allocation(self, sparsity: float) -> PerLayer:
        """Sparsities for the layers at which each of them alone costs as much of the metric, together ``sparsity``.

        Between two sparsities of the scan the loss is taken to be linear, and never to fall.

        Args:
            sparsity: That of all layers together, in [0, 1).

        Raises:
            ValueError: If it is higher than the highest sparsity of the scan.
        """
        layers = self.layers
        sizes = [rows[0].size for rows in layers.values()]
        curves = [self._curve(rows) for rows in layers.values()]
        most = max(curve[-1][0] for curve in curves)
        if not 0 <= sparsity <= most:
            raise ValueError(
                f"the scan goes from sparsity 0 to {most}, got {sparsity}; scan higher sparsities, or ask for less"
            )

        def at(loss: float) -> list[float]:
            return [_bears(curve, loss) for curve in curves]

        def reached(found: Sequence[float]) -> float:
            return sum(size * each for size, each in zip(sizes, found, strict=True)) / sum(sizes)

        low, high = -1.0, max((loss for curve in curves for _, loss in curve if loss < math.inf), default=0.0)
        if reached(at(high)) < sparsity:
            high = math.inf
        for _ in range(200 if high < math.inf else 0):
            middle = (low + high) / 2
            low, high = (middle, high) if reached(at(middle)) < sparsity else (low, middle)
        # Where a layer's loss stays the same over a range of sparsities, the total jumps; all jump by the same part.
        below, above = at(low if high < math.inf else _greatest(curves)), at(high)
        gap = reached(above) - reached(below)
        part = (sparsity - reached(below)) / gap if gap else 0.0
        chosen = [a + part * (b - a) for a, b in zip(below, above, strict=True)]
        return PerLayer({name: min(max(each, 0.0), most) for name, each in zip(layers, chosen, strict=True)})

    def _curve(self, rows: Sequence[SensitivityRow]) -> list[tuple[float, float]]:
        """(sparsity, loss of metric), from (0, 0), neither of which falls."""
        curve = [(0.0, 0.0)]
        for row in rows:
            loss = (row.metric - self.dense) * (1 if self.lower_is_better else -1)
            curve.append((row.sparsity, max(curve[-1][1], math.inf if math.isnan(loss) else loss)))
        return curve

    def to_svg(self) -> str:
        """A picture: a row for each layer, a column for each sparsity, darker where more of the metric is lost."""
        layers = self.layers
        left, cell, height = 8 * max(map(len, layers)) + 12, 56, 20
        worst = max((loss for rows in layers.values() for _, loss in self._curve(rows) if loss < math.inf), default=0)
        columns = next(iter(layers.values()))
        parts = [
            _text(left + cell * (place + 0.5), 14, f"{row.sparsity:.4g}", "middle") for place, row in enumerate(columns)
        ]
        for line, (name, rows) in enumerate(layers.items(), 1):
            top = height * line
            parts.append(_text(left - 8, top + 14, name, "end"))
            for place, (row, (_, loss)) in enumerate(zip(rows, self._curve(rows)[1:], strict=True)):
                share = min(loss / worst, 1.0) if worst else 0.0
                colour = f"rgb({round(255 - 200 * share)},{round(255 - 160 * share)},{round(255 - 70 * share)})"
                place_x = left + cell * place
                parts.append(f'<rect x="{place_x}" y="{top}" width="{cell}" height="{height}" fill="{colour}"/>')
                ink = "white" if share > 0.6 else "black"
                parts.append(_text(place_x + cell / 2, top + 14, f"{row.metric:.4g}", "middle", ink))
        size = f'width="{left + cell * len(columns)}" height="{height * (len(layers) + 1)}"'
        return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', *parts, "</svg>", ""])


def _text(x: float, y: float, text: str, anchor: str, colour: str = "black") -> str:
    from html import escape  # a table of all entities, which no table of numbers needs

    style = f'font-family="sans-serif" font-size="12" text-anchor="{anchor}" fill="{colour}"'
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(text, quote=False)}</text>'


def _greatest(curves: Sequence[Sequence[tuple[float, float]]]) -> float:
    return max((loss for curve in curves for _, loss in curve if loss < math.inf), default=0.0)


def _bears(curve: Sequence[tuple[float, float]], loss: float) -> float:
    """The highest sparsity at which no more than ``loss`` is lost."""
    if loss < 0:
        return 0.0
    found = 0.0
    for (s0, l0), (s1, l1) in pairwise(curve):
        if l1 <= loss:
            found = s1
        elif l0 <= loss:
            return s0 if l1 == math.inf else s0 + (s1 - s0) * (loss - l0) / (l1 - l0)
    return found
