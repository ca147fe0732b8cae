"""Least-squares weights for the zeros of a model: what is left of each layer comes nearest to what the layer did."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from openwork.core.chosen import check_model
from openwork.core.masks.blockwise.blocks import Block
from openwork.core.masks.blockwise.cost import Cost, usable
from openwork.core.masks.blockwise.prune import Progress, check_finite, check_progress, plan, say
from openwork.core.masks.blockwise.refitted import became, refitted
from openwork.core.masks.blockwise.result import Pruned, PrunedLayer
from openwork.core.masks.blockwise.undo import all_or_nothing
from openwork.core.masks.blockwise.walk import Run, walk
from openwork.core.masks.blockwise.watched import Inputs, watching
from openwork.core.selection import Selection, Weight, weight_matrices


def reconstruct(
    model: nn.Module,
    dense: nn.Module | Mapping[str, Tensor],
    batches: Iterable[Any],
    *,
    select: Selection = weight_matrices,
    blocks: str | Iterable[str] | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Pruned:
    """Fits the weights that ``model`` has left, in place, block after block; its zeros stay.

    The weights w of each output minimise |w X - w0 X|^2 over those that are 0 where w is 0 now: w0 are the dense
    model's, X the inputs that the layer has in the sparse model, whose earlier blocks have been fitted.

    Args:
        model: A model with zeros, whoever made them.
        dense: The model as it was without zeros, or its state dict.
        batches: Example inputs, as `prune` takes them.
        select: Which parameters are fitted, of those that have zeros.
        blocks: As in `prune`.
        device: As in `prune`.
        progress: As in `prune`.

    Returns:
        What became of each layer; ``masked_error`` is the error before.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If no selected weight has zeros, ``dense`` is another model or this one, or batches cannot be used.
            Whatever raises leaves the model as it was.
    """
    check_model(model)
    check_progress(progress)
    home = usable(device)
    cost = Cost(model, home)
    planned = plan(model, with_zeros, batches, select=select, blocks=blocks)
    weights = [weight for block in planned.blocks for weight in block.weights]
    targets = _targets(model, dense, weights)
    layers: list[PrunedLayer] = []

    with all_or_nothing(model) as originals:

        def visit(block: Block, run: Run) -> None:
            for weight in block.weights:
                originals.keep(weight)
            with watching(block.weights, products=True) as seen:
                run(model)
            done = [_fitted(weight, targets[weight.name], seen[weight.name]) for weight in block.weights]
            layers.extend(done)
            say(planned, block, done, layers, progress)

        walk(model, planned.blocks, planned.examples, visit, home)
        return Pruned(None, None, None, tuple(layers), planned.skipped, cost.minutes, cost.peak())


def with_zeros(weights: list[Weight]) -> tuple[list[Weight], dict[str, str]]:
    """The weights that have zeros, and that the others have none, by name. Raises ValueError if none has."""
    sparse = [weight for weight in weights if int(weight.parameter.count_nonzero()) < weight.parameter.numel()]
    if not sparse:
        raise ValueError("no selected weight has zeros; prune the model first, or select other weights")
    names = {weight.name for weight in sparse}
    return sparse, {weight.name: "it has no zeros" for weight in weights if weight.name not in names}


def _targets(model: nn.Module, dense: object, weights: list[Weight]) -> dict[str, Tensor]:
    """The dense weights by name.

    Raises:
        TypeError: If ``dense`` is neither a model nor a state dict.
        ValueError: If it is the model itself, or lacks a weight of its shape.
    """
    if isinstance(dense, nn.Module):
        found: Mapping[str, Tensor] = dict(dense.named_parameters(remove_duplicate=False))
    elif isinstance(dense, Mapping):
        found = dense
    else:
        raise TypeError(f"dense must be the model without zeros or its state dict, got a {type(dense).__name__}")
    targets = {}
    for weight in weights:
        target, shape = found.get(weight.name), tuple(weight.parameter.shape)
        if not isinstance(target, Tensor) or tuple(target.shape) != shape:
            has = f"has the shape {tuple(target.shape)} there" if isinstance(target, Tensor) else "has none"
            raise ValueError(
                f"{weight.name} has the shape {shape}, and dense {has}; pass the same model, as it was without zeros"
            )
        if target.data_ptr() == weight.parameter.data_ptr():
            raise ValueError(
                f"dense holds the same {weight.name} as the model; pass a copy.deepcopy of the model that was made "
                "before it was pruned"
            )
        check_finite(f"{weight.name} of dense", target)
        targets[weight.name] = target.detach()
    return targets


def _fitted(weight: Weight, target: Tensor, inputs: Inputs) -> PrunedLayer:
    if not inputs.seen:
        return replace(became(weight), remark="no input reached it: as it was")
    before = became(weight, target, inputs)
    return refitted(weight, weight.parameter.detach() != 0, target, inputs, None, before)
