"""Adding up the counts of single tensors."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from openwork.formats.held import Held, UnreadableLayoutError
from openwork.inspect.counts import Counts, LayerCounts
from openwork.inspect.flops import Flops
from openwork.inspect.layer import OtherCounts
from openwork.inspect.size import Size, size_of


def total(
    layers: Sequence[LayerCounts],
    others: Iterable[OtherCounts],
    flops: Flops | None,
    skipped: dict[str, str],
    notes: Sequence[str],
) -> Counts:
    """The counts of layers and of other parameters together.

    Args:
        layers: The counts of the layers.
        others: Those of the other parameters.
        flops: The FLOPs of an example, None without one.
        skipped: Name -> why it does not count.
        notes: What is to be said beside the counts.
    """
    parameters = sum(layer.weights for layer in layers)
    nonzero = sum(layer.nonzero for layer in layers)
    size = sum((layer.size for layer in layers), Size())
    not_finite = {layer.name: layer.not_finite for layer in layers}
    for other in others:
        parameters, nonzero = parameters + other.tensor.numel(), nonzero + other.nonzero
        size += size_of(other.tensor, other.nonzero)
        not_finite[other.name] = other.not_finite
    not_finite = {name: found for name, found in not_finite.items() if any(found)}
    return Counts(tuple(layers), parameters, parameters - nonzero, size, flops, skipped, tuple(notes), not_finite)


def value_of(weight: Held) -> Tensor:
    """The weight's value.

    Raises:
        ValueError: If the tensors that hold it do not fit each other, or do not tell it.
    """
    try:
        return weight.value().detach()
    except UnreadableLayoutError:
        raise
    except Exception as error:  # whatever the content of a foreign file happens to mean
        reason = str(error).split("\n")[0][:160] or type(error).__name__
        raise ValueError(
            f"cannot count the zeros of {weight.name}, which {', '.join(weight.parts)[:160]} hold: {reason}"
        ) from error


def layouts_in(weights: Sequence[Held]) -> list[str]:
    """A sentence for each layout among the weights."""
    names: dict[str, list[str]] = {}
    for weight in weights:
        if weight.layout:
            names.setdefault(weight.layout, []).append(weight.name)
    return [
        f"{found[0]}{f' and {len(found) - 1:,} more' if len(found) > 1 else ''}: the values of {layout}"
        for layout, found in names.items()
    ]
