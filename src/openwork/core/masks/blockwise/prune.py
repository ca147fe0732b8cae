"""Pruning block after block, with the inputs that the pruned blocks before give."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from openwork.core.chosen import choose_weights
from openwork.core.masks.attention import crossed, crosses
from openwork.core.masks.blockwise.blocks import Block, find_blocks
from openwork.core.masks.blockwise.counts import find_counts, with_counts
from openwork.core.masks.blockwise.examples import Example, at_rest, examples_of
from openwork.core.masks.blockwise.finished import Finished
from openwork.core.masks.blockwise.refitted import became, refitted
from openwork.core.masks.blockwise.result import PrunedLayer
from openwork.core.masks.blockwise.undo import Originals
from openwork.core.masks.blockwise.walk import Run, walk
from openwork.core.masks.blockwise.watched import Inputs, show_unused, watching
from openwork.core.masks.input_products import InputProducts
from openwork.core.masks.inputs import observable
from openwork.core.masks.technique import MaskTechnique
from openwork.core.names import few
from openwork.core.ownership import refuse_held, refuse_overlapping
from openwork.core.selection import Selection, Weight
from openwork.words import count

logger = logging.getLogger("openwork")

Progress = Callable[[str], object]
"""Called with a line of text, such as ``print``."""


def check_progress(progress: object) -> None:
    """Raises TypeError for what is neither None nor a function."""
    if progress is not None and not callable(progress):
        raise TypeError(f"progress must be a function of a line of text, such as print, got {progress!r}")


def check_finite(name: str, values: Tensor) -> None:
    """Raises ValueError for a weight that is NaN or infinite somewhere."""
    if not values.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinities; load a model without, or leave it out")


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
    fitting: Callable[[list[Weight]], tuple[list[Weight], dict[str, str]]],
    batches: Iterable[Any],
    *,
    select: Selection,
    blocks: str | Iterable[str] | None,
) -> Plan:
    """What a walk will change; nothing changes here.

    Args:
        model: The model.
        fitting: Which of the selected weights can be changed, and why the others cannot, by name.
        batches: The example inputs.
        select: Which weights are selected.
        blocks: The blocks by name; None finds them.

    Raises:
        ValueError: If nothing can be pruned, or a weight that must be cannot.
    """
    weights, skipped = choose_weights(model, select)
    weights, misfits = fitting(weights)
    refuse_held(weights)
    refuse_overlapping(weights)
    for weight in weights:
        check_finite(weight.name, weight.parameter)
    skipped |= misfits
    unseen = {}
    for weight in weights:
        try:
            for site in weight.sites:
                observable(site)
        except ValueError as error:
            unseen[weight.name] = str(error)
    if unseen and len(unseen) == len(weights) and misfits:
        reasons = {name: reason.partition(";")[0] for name, reason in (unseen | misfits).items()}
        lines = [f"{name}: {reason}" for name, reason in reasons.items()]
        listed = "; ".join(lines[:12]) + (f"; and {len(lines) - 12} more" if len(lines) > 12 else "")
        cure = "choose another pattern or select other weights"
        raise ValueError(f"none of the selected weights can be pruned: {listed}; {cure}")
    if unseen and (blocks is not None or len(unseen) == len(weights)):
        raise ValueError(next(iter(unseen.values())))
    skipped |= {name: reason.partition(";")[0] for name, reason in unseen.items()}
    weights = [weight for weight in weights if weight.name not in unseen]
    found, examples = find_blocks(model, weights, blocks), examples_of(model, batches)
    if crossing := _crossing(model, weights, examples):
        weights = [weight for weight in weights if weight.name not in crossing]
        if blocks is not None or not weights:
            raise ValueError(crossed(crossing[0]))
        found = find_blocks(model, weights, blocks)
        skipped |= {name: crossed(name).partition(";")[0] for name in crossing}
    inside = {weight.name for block in found for weight in block.weights}
    outside = [weight.name for weight in weights if weight.name not in inside]
    skipped |= dict.fromkeys(outside, f"it lies in none of the blocks {few([b.name for b in found])}")
    return Plan(found, skipped, examples)


def _crossing(model: nn.Module, weights: Sequence[Weight], examples: Sequence[Example]) -> list[str]:
    """The packed weights of attentions whose query, key and value differ in some example, as runs of the model show."""
    found: list[str] = []

    def hook(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if crosses(args, kwargs) and name not in found:
            found.append(name)

    packed = [weight for weight in weights if weight.sites[0].leaf == "in_proj_weight"]
    hooks = [
        weight.sites[0].module.register_forward_pre_hook(partial(hook, weight.name), with_kwargs=True)
        for weight in packed
    ]
    try:
        with at_rest(model):
            for example in examples if packed else ():
                example.run(model)
    finally:
        for each in hooks:
            each.remove()
    return found


def prune_blocks(
    model: nn.Module,
    technique: MaskTechnique,
    planned: Plan,
    originals: Originals,
    *,
    seed: int,
    keep_zeros: bool,
    reconstruct: bool,
    device: torch.device | None,
    finished: Finished | None,
    progress: Progress | None,
) -> list[PrunedLayer]:
    """Prunes the blocks in place, and returns what became of each layer.

    Args:
        model: The model.
        technique: Says which weights go.
        planned: The blocks and the inputs.
        originals: Gets the values of weights before they change.
        seed: As in `sparsify`.
        keep_zeros: As in `sparsify`.
        reconstruct: Whether the kept weights become those of least squares.
        device: Where blocks run.
        finished: The folder of the finished blocks; None where they are not written.
        progress: Called with a line of text for each block.
    """
    layers: list[PrunedLayer] = []
    if finished is not None and finished.begun:
        counts = finished.counts
    else:
        counts = find_counts(
            *(technique, model, planned.blocks, planned.examples), seed=seed, keep_zeros=keep_zeros, device=device
        )
        if finished is not None:
            finished.begin(counts)
    technique = with_counts(technique, counts)

    def visit(block: Block, run: Run) -> None:
        done = None if finished is None else finished.layers(block)
        if done is None:
            dense = {weight.name: originals.keep(weight) for weight in block.weights}
            done = _prune(
                *(model, technique, block, run, dense), seed=seed, keep_zeros=keep_zeros, reconstruct=reconstruct
            )
            if finished is not None:
                finished.add(block, done)
                originals.forget()  # what is in the folder stays, whatever happens to the others
        layers.extend(done)
        say(planned, block, done, layers, progress)

    walk(model, planned.blocks, planned.examples, visit, device)
    return layers


def _prune(
    model: nn.Module,
    technique: MaskTechnique,
    block: Block,
    run: Run,
    dense: Mapping[str, Tensor],
    *,
    seed: int,
    keep_zeros: bool,
    reconstruct: bool,
) -> list[PrunedLayer]:
    unused: list[str] = []
    looks = technique.evidence.inputs
    has_products = isinstance(technique.evidence, InputProducts)
    with watching(block.weights, products=reconstruct and not has_products) as seen:

        def calibrate(model: nn.Module) -> None:
            run(model)
            unused.extend(show_unused(block.weights, seen))

        masking = technique.mechanism([*block.weights], seed=seed, keep_zeros=keep_zeros)
        masking.start(model, calibrate if looks else None)
        masks = masking.masks() if reconstruct else {}
        own = {masked.name: masked.evidence["products"] for masked in masking.weights if has_products}
        masking.finalize(model, in_place=True)
        if not looks:
            calibrate(model)
    layers = [became(weight, dense[weight.name], seen[weight.name]) for weight in block.weights]
    if reconstruct:
        layers = [
            refitted(weight, masks[name], dense[name], seen[name], own.get(name), layer)
            for weight, layer in zip(block.weights, layers, strict=True)
            for name in [weight.name]
        ]
    alone = "no input reached it: pruned by its weights alone"
    return [
        replace(layer, error=None, remark=alone)
        if layer.name in unused
        else replace(layer, remark=_few(seen[weight.name]) or _elsewhere(block, weight))
        for weight, layer in zip(block.weights, layers, strict=True)
    ]


def _few(inputs: Inputs) -> str:
    """That nothing reached some of its matrices, or less than the matrix has columns; "" where all saw enough."""
    rows = [sketch.seen for sketch in inputs.sketches]
    if missed := rows.count(0):
        return f"no input reached {missed} of its {len(rows)} matrices: pruned by their weights alone"
    columns = max(sketch.rows.shape[1] for sketch in inputs.sketches if sketch.rows is not None)
    seen = count(min(rows), "row")
    return f"{seen} of inputs for {columns} columns: give more batches" if min(rows) < columns else ""


def _elsewhere(block: Block, weight: Weight) -> str:
    """That the weight is tied to one of another block; "" where it is not."""
    inside = {id(module) for module in block.module.modules()}
    other = next((site.name for site in weight.sites if id(site.module) not in inside), None)
    return f"also {other}, whose inputs were not looked at" if other else ""


def say(
    planned: Plan, block: Block, done: Sequence[PrunedLayer], layers: Sequence[PrunedLayer], progress: Progress | None
) -> None:
    """Logs a line about a block that is done, and shows it to ``progress``.

    Args:
        planned: All blocks.
        block: The block.
        done: Its layers.
        layers: All layers that are done.
        progress: Called with the line.
    """
    finished = {layer.name for layer in layers}
    number = sum(all(weight.name in finished for weight in each.weights) for each in planned.blocks)
    zeros, size = sum(layer.zeros for layer in done), sum(layer.size for layer in done)
    errors = [layer.error for layer in done if layer.error is not None]
    worst = f", relative errors up to {max(errors):.3g}" if errors else ""
    line = f"{number} of {len(planned.blocks)}: {block.name}, {zeros / size:.1%} zeros{worst}"
    logger.info("pruned block %s", line)
    if progress is not None:
        progress(line)
