"""Counting many models of one shape at once, whose parameters are rows of stacked tensors.

One by one, each count of each tensor of each model would be a wait for a GPU.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from openwork.core.layout import Layout, layout_of
from openwork.core.masks.counting import true_by_row
from openwork.core.selection import Selection
from openwork.inspect.counts import Counts, LayerCounts
from openwork.inspect.from_model import count_model
from openwork.inspect.layer import OtherCounts, count_layer
from openwork.inspect.not_finite import count_each_not_finite
from openwork.inspect.structure import count_structures
from openwork.inspect.total import total


def count_alike(models: Sequence[nn.Module], select: Selection | None, stacked: Mapping[str, Tensor]) -> list[Counts]:
    """What `count_model` returns for each of the models.

    Args:
        models: Models that differ in the values of their tensors alone.
        select: Picks the layers.
        stacked: Their parameters by name, (N, *shape).

    Raises:
        ValueError: As `count_model` does.
    """
    first = count_model(models[0], select, None, {})
    layouts = {layer.name: _layout(models[0], layer.name, layer.shape) for layer in first.layers}
    if first.notes or not all(layouts.values()):  # weights that several tensors hold, or that are no matrices
        return [first, *(count_model(model, select, None, {}) for model in models[1:])]
    structures = {name: count_structures(stacked[name], layout) for name, layout in layouts.items() if layout}
    names = [name for name, _ in models[0].named_parameters() if name not in {*structures, *first.skipped}]
    others = {name: true_by_row(stacked[name] != 0).tolist() for name in names}
    broken = {name: count_each_not_finite(stacked[name]) for name in (*structures, *names)}

    def layer(each: LayerCounts, n: int) -> LayerCounts:
        counts = structures[each.name][n], broken[each.name][n]
        return count_layer(each.name, stacked[each.name][n], None, None, None, each.also, *counts)

    return [
        total(
            [layer(each, n) for each in first.layers],
            [OtherCounts(name, stacked[name][n], counts[n], broken[name][n]) for name, counts in others.items()],
            None,
            first.skipped,
            first.notes,
        )
        for n in range(len(models))
    ]


def _layout(model: nn.Module, name: str, shape: Sequence[int]) -> Layout | None:
    owner, _, leaf = name.rpartition(".")
    return layout_of(model.get_submodule(owner), leaf, shape)
