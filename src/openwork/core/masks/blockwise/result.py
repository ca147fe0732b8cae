"""What became of each layer."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from openwork.words import printable


@dataclass(frozen=True)
class PrunedLayer:
    """What became of one weight.

    Args:
        name: The weight's name.
        size: How many numbers it has.
        zeros: How many of them are zero.
        error: ||X (W - W')||^2 / ||X W||^2, for the inputs X that its layer has in the model whose earlier blocks are
            pruned: W before, W' after; None where nobody looked at inputs, or no input reached the layer.
        masked_error: The same before the kept weights were fitted anew; None where they were not.
        remark: What is special about it; "" where nothing is.
    """

    name: str
    size: int
    zeros: int
    error: float | None = None
    masked_error: float | None = None
    remark: str = ""

    @property
    def sparsity(self) -> float:
        """The fraction of zeros, 0-1."""
        return self.zeros / max(self.size, 1)


@dataclass(frozen=True)
class Pruned:
    """What `prune` did to a model.

    Args:
        before: The metric of the model as it was; None where `prune` got no ``evaluate``, as are the others.
        after: The metric of the pruned model.
        recalibrated: The metric with the batch-norm statistics of the pruned model; None where these are as they were.
        layers: What became of each weight.
        skipped: Why selected weights and other matrices stay dense, by name.
        minutes: How long it took, without ``evaluate``.
        peak_memory: The most bytes that were in use: of the GPU where one was used, otherwise of the process since it
            began; None where the system does not say.
    """

    before: float | None
    after: float | None
    recalibrated: float | None
    layers: tuple[PrunedLayer, ...] = field(repr=False)
    skipped: dict[str, str] = field(repr=False)
    minutes: float
    peak_memory: int | None

    @property
    def sparsity(self) -> float:
        """The fraction of zeros, 0-1, among the weights that were pruned."""
        return sum(layer.zeros for layer in self.layers) / sum(layer.size for layer in self.layers)

    def __str__(self) -> str:
        if self.before is None:
            return f"{self.sparsity:.2%} sparsity"
        last = "" if self.recalibrated is None else f", {self.recalibrated:.4f} with recalibrated batch norms"
        return f"{self.sparsity:.2%} sparsity: {self.before:.4f} before, {self.after:.4f} after{last}"

    def table(self) -> str:
        """A line for each layer, then what stays dense, time and memory, as plain text."""
        lines = layer_lines(self.layers)
        lines += [f"{name} stays dense: {reason}" for name, reason in self.skipped.items()]
        memory = "" if self.peak_memory is None else f", {self.peak_memory / 1e9:.2f} GB at most"
        return "\n".join(map(printable, [*lines, f"{self}; {self.minutes:.1f} minutes{memory}"]))


def layer_lines(layers: Sequence[PrunedLayer]) -> list[str]:
    """A table of the layers, as lines of text."""
    width = max([len(layer.name) for layer in layers] + [5])
    refitted = any(layer.masked_error is not None for layer in layers)
    lines = [f"{'layer':<{width}}  {'weights':>11}  sparsity  {'error':>8}{'  mask alone' if refitted else ''}"]
    for layer in layers:
        errors = f"{_number(layer.error):>8}" + (f"  {_number(layer.masked_error):>10}" if refitted else "")
        lines.append(
            f"{layer.name:<{width}}  {layer.size:>11,}  {layer.sparsity:>8.2%}  {errors}  {layer.remark}".rstrip()
        )
    return lines


def _number(error: float | None) -> str:
    return "" if error is None else f"{error:.2e}"
