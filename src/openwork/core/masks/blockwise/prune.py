"""Pruning block after block, with the inputs that the pruned blocks before give."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from openwork.core.chosen import choose_weights
from openwork.core.masks.blockwise.blocks import Block, find_blocks
from openwork.core.masks.blockwise.counts import with_counts
from openwork.core.masks.blockwise.examples import Example, examples_of
from openwork.core.masks.blockwise.result import PrunedLayer
from openwork.core.masks.blockwise.walk import Run, walk
from openwork.core.masks.blockwise.watched import Sketch, show_unused, watching
from openwork.core.masks.inputs import observable
from openwork.core.masks.technique import MaskTechnique
from openwork.core.names import few
from openwork.core.ownership import refuse_held
from openwork.core.selection import Selection, Weight

logger = logging.getLogger("openwork")

Originals = dict[str, tuple[Weight, Tensor]]
"""Weights with their values before they were pruned, to put these back."""


@dataclass(frozen=True)
class Plan:
    """What is to be pruned, in blocks.

    Args:
        blocks: The blocks.
        skipped: Why other matrices stay dense, by name.
        examples: The inputs.
    """

    blocks: list[Block]
    skipped: dict[str, str]
    examples: list[Example]


def plan(
    model: nn.Module,
    technique: MaskTechnique,
    batches: Iterable[Any],
    *,
    select: Selection,
    blocks: str | Iterable[str] | None,
) -> Plan:
    """What `prune_blocks` will do; nothing changes here.

    Raises:
        ValueError: If nothing can be pruned, or a weight that must be cannot.
    """
    weights, skipped = choose_weights(model, select)
    weights, misfits = technique.fitting(weights)
    refuse_held(weights)
    skipped |= misfits
    unseen = {}
    for weight in weights:
        try:
            for site in weight.sites:
                observable(site)
        except ValueError as error:
            unseen[weight.name] = str(error)
    if unseen and (blocks is not None or len(unseen) == len(weights)):
        raise ValueError(next(iter(unseen.values())))
    skipped |= {name: reason.partition(";")[0] for name, reason in unseen.items()}
    weights = [weight for weight in weights if weight.name not in unseen]
    found = find_blocks(model, weights, blocks)
    inside = {weight.name for block in found for weight in block.weights}
    outside = [weight.name for weight in weights if weight.name not in inside]
    skipped |= dict.fromkeys(outside, f"it lies in none of the blocks {few([b.name for b in found])}")
    return Plan(found, skipped, examples_of(model, batches))


def prune_blocks(
    model: nn.Module,
    technique: MaskTechnique,
    planned: Plan,
    originals: Originals,
    *,
    seed: int,
    device: torch.device | None,
    progress: Callable[[str], object] | None,
) -> list[PrunedLayer]:
    """Prunes the blocks in place, and returns what became of each layer.

    Args:
        model: The model.
        technique: Looks at inputs.
        planned: The blocks and the inputs.
        originals: Gets the values of weights before they change.
        seed: As in `sparsify`.
        device: Where blocks run.
        progress: Called with a line of text for each block.
    """
    blocks, layers, number = planned.blocks, list[PrunedLayer](), count(1)
    technique = with_counts(technique, model, blocks, planned.examples, seed=seed, device=device)

    def visit(block: Block, run: Run) -> None:
        for weight in block.weights:
            originals[weight.name] = weight, weight.parameter.detach().to("cpu", copy=True)
        done = _prune(model, technique, block, run, originals, seed=seed)
        layers.extend(done)
        line = f"{next(number)} of {len(blocks)}: {block.name}, {_said(done)}"
        logger.info("pruned block %s", line)
        if progress is not None:
            progress(line)

    walk(model, blocks, planned.examples, visit, device)
    return layers


def _prune(
    model: nn.Module, technique: MaskTechnique, block: Block, run: Run, originals: Originals, *, seed: int
) -> list[PrunedLayer]:
    unused: list[str] = []
    with watching(block.weights) as sketches:

        def calibrate(model: nn.Module) -> None:
            run(model)
            unused.extend(show_unused(block.weights, sketches))

        masks = technique.mechanism([*block.weights], seed=seed, keep_zeros=False)
        masks.start(model, calibrate if technique.evidence.inputs else None)
        masks.finalize(model, in_place=True)
        if not technique.evidence.inputs:
            calibrate(model)
    return [
        replace(became(weight), remark="no input reached it: pruned by its weights alone")
        if weight.name in unused
        else became(weight, originals[weight.name][1], sketches[weight.name])
        for weight in block.weights
    ]


def became(weight: Weight, before: Tensor | None = None, sketch: Sketch | None = None) -> PrunedLayer:
    """What became of a weight.

    Args:
        weight: The weight as it is now.
        before: As it was.
        sketch: That of its layer's inputs.
    """
    after = weight.parameter.detach()
    zeros = after.numel() - int(after.count_nonzero())
    if before is None or sketch is None or (layout := weight.layout) is None:
        return PrunedLayer(weight.name, after.numel(), zeros)
    pair = [layout.merged(each.to(after.device), "outputs").flatten(1) for each in (before, after)]
    return PrunedLayer(weight.name, after.numel(), zeros, sketch.error(*pair))


def _said(layers: Sequence[PrunedLayer]) -> str:
    zeros, size = sum(layer.zeros for layer in layers), sum(layer.size for layer in layers)
    errors = [layer.error for layer in layers if layer.error is not None]
    worst = f", relative errors up to {max(errors):.3g}" if errors else ""
    return f"{zeros / size:.1%} zeros{worst}"
