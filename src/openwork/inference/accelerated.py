"""What `accelerate` gives: the model, and what was measured of every layer."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from openwork.core.converted import Converted
from openwork.core.copies import copied_model
from openwork.inference.choice import LayerChoice
from openwork.inference.timing import Timing
from openwork.words import count, printable


@dataclass(frozen=True)
class Accelerated:
    """A model whose sparse layers are computed by the fastest kernels, and the measurements; prints as a table.

    Args:
        model: The model, in evaluation mode.
        layers: What was measured of each layer, in the model's order.
        dense: Seconds of the whole dense model for the sample.
        now: Seconds of ``model`` for the sample; the same as ``dense`` where all layers stayed dense.
        difference: The largest difference between their outputs, as a fraction of the largest output.
        dense_bytes: What the dense model's parameters and buffers hold.
        nbytes: What those of ``model`` hold.
        device: What it was measured on.
        threads: How many threads torch had.
    """

    model: nn.Module
    layers: tuple[LayerChoice, ...]
    dense: Timing
    now: Timing
    difference: float
    dense_bytes: int
    nbytes: int
    device: str
    threads: int = field(default_factory=torch.get_num_threads)

    @property
    def speedup(self) -> float:
        """How many times faster the model is than the dense one, by the medians; 1 where all layers stayed dense."""
        return self.dense.median / self.now.median

    def dense_copy(self) -> nn.Module:
        """A copy with plain layers again, to save, export or convert elsewhere; it shares what was not converted."""
        forms = {id(module): module.dense() for module in self.model.modules() if isinstance(module, Converted)}
        shared = {id(parameter): parameter for parameter in self.model.parameters()}
        return copied_model(self.model, {**shared, **forms})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; seconds and bytes."""
        return {
            "device": self.device,
            "threads": self.threads,
            "torch": torch.__version__,
            "speedup": self.speedup,
            "seconds": {"dense": self.dense.to_dict(), "now": self.now.to_dict()},
            "bytes": {"dense": self.dense_bytes, "now": self.nbytes},
            "difference": self.difference,
            "layers": [layer.to_dict() for layer in self.layers],
        }

    def __str__(self) -> str:
        converted = sum(layer.kernel != "dense" for layer in self.layers)
        head = [
            f"{self.speedup:.2f} x dense end to end: {seconds_text(self.dense)} before, {seconds_text(self.now)} now, "
            f"on {self.device}" + (f" with {count(self.threads, 'thread')}" if self.device == "cpu" else ""),
            f"{converted} of {count(len(self.layers), 'layer')} converted, {self.dense_bytes:,} bytes before, "
            f"{self.nbytes:,} now, outputs differ by {self.difference:.1g} of the largest",
        ]
        return "\n".join(map(printable, [*head, *layer_table(self.layers)]))


_HEADER = ("layer", "weight", "sparsity", "kernel", "dense", "kernel's", "gain", "bytes", "break-even")


def layer_table(layers: tuple[LayerChoice, ...]) -> list[str]:
    """The lines of a table with a row for each layer."""
    rows = [_HEADER, *(_row(layer) for layer in layers)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = []
    for row, reason in zip(rows, ["", *(layer.reason for layer in layers)], strict=True):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join([*cells, reason]).rstrip())
    return [lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]]


def _row(layer: LayerChoice) -> tuple[str, ...]:
    best, dense = layer.best, layer.dense
    timed = best is not None and best.timing is not None and dense is not None
    return (
        layer.name or "(model)",
        "x".join(map(str, layer.shape)),
        f"{layer.sparsity:.1%}",
        layer.kernel,
        seconds_text(dense) if dense else "-",
        seconds_text(best.timing) if timed and best and best.timing else "-",
        f"{dense.median / best.timing.median:.2f} x" if timed and best and best.timing and dense else "-",
        f"{layer.nbytes / max(1, layer.dense_bytes):.0%}",
        "-" if layer.break_even is None else "never" if layer.break_even == 1 else f"{layer.break_even:.0%}",
    )


def seconds_text(timing: Timing) -> str:
    """The median, and half of the distance between the quartiles: "1.23 ± 0.04 ms"."""
    low, high = timing.spread
    unit, scale = next((u, s) for u, s in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)) if timing.median >= s or u == "µs")
    return f"{timing.median / scale:.3g} ± {(high - low) / 2 / scale:.2g} {unit}"
