"""One-shot pruning of a trained model, whose metric is measured before and after."""

from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openwork.core.batchnorm import has_statistics, recalibrate_batchnorm
from openwork.core.chosen import check_model, choose_weights
from openwork.core.evaluated import Evaluate, check_evaluate, metric_of
from openwork.core.forward import check_batches
from openwork.core.masks.blockwise.cost import Cost, usable
from openwork.core.masks.blockwise.finished import Finished
from openwork.core.masks.blockwise.prune import Progress, check_progress, plan, prune_blocks
from openwork.core.masks.blockwise.refitted import became
from openwork.core.masks.blockwise.result import Pruned, PrunedLayer
from openwork.core.masks.blockwise.undo import Originals, all_or_nothing
from openwork.core.masks.technique import MaskTechnique
from openwork.core.mechanism import Calibrate
from openwork.core.selection import Selection, weight_matrices
from openwork.core.sparsify import sparsify


def prune(
    model: nn.Module,
    technique: MaskTechnique,
    evaluate: Evaluate | None = None,
    *,
    batches: Iterable[Any] | None = None,
    select: Selection = weight_matrices,
    seed: int = 0,
    keep_zeros: bool = False,
    calibrate: Calibrate | None = None,
    blocks: str | Iterable[str] | None = None,
    reconstruct: bool = False,
    device: torch.device | str | None = None,
    resume: str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Pruned:
    """Prunes ``model``, in place and once, to the technique's final sparsity, and measures before and after.

    A technique that looks at inputs, such as Wanda, sees those of ``batches``: block after block, each on the outputs
    of the pruned blocks before it. The statistics of one block are in memory at a time.

    Args:
        model: A trained model.
        technique: One that prunes before training, such as ``GradualMagnitude(OneShot(0.8))``.
        evaluate: model -> metric; it sets the evaluation mode that it needs. None measures nothing.
        batches: Example inputs, as loaders give them: tensors, (x, y) or dicts. A technique that looks at inputs sees
            them, without the padding that a batch's masks show, and so do batch norms, whose statistics are those of
            the pruned model afterwards (`recalibrate_batchnorm`).
        select: Which parameters become sparse, as in `sparsify`.
        seed: As in `sparsify`.
        keep_zeros: Whether the zeros that the weights hold now stay zero, and count among those of the technique.
        calibrate: As in `sparsify`, for a technique that looks at gradients, or at inputs of the whole dense model at
            once.
        blocks: Names of the blocks, or shell patterns for them (``"encoder.layer.*"``), which must hold all selected
            weights. By default those that the model repeats; where these hold less than half of the layers, layer
            after layer. Weights outside of the blocks, such as embeddings, then stay dense; the result names them.
        reconstruct: Whether the kept weights of each layer become those whose outputs come nearest, in the sum of
            squares over the inputs of ``batches``, to the outputs with all weights.
        device: Where a block does its work, such as "cuda", and from where it comes back; by default where it is.
        resume: A folder for the finished blocks. Where it has some, of the same prune, this goes on with the others and
            ends with the same bits. Finished blocks then stay pruned if something fails; without it, a copy of all
            weights is kept until the end, to put them back.
        progress: Called with a line of text after each block, such as ``print``.

    Returns:
        The sparsity, the metrics, and what became of each layer.

    Raises:
        TypeError: If ``technique`` is no mask technique, ``evaluate`` is no function or returns no number, or a batch
            holds no input.
        ValueError: If the schedule prunes later, batches would do nothing or cannot be used, or blocks miss a weight.
            Whatever raises, even ``evaluate`` or ``batches``, leaves selected weights, buffers and training flags as
            they were, but for blocks that ``resume`` has in its folder.
    """
    check_model(model)
    if not isinstance(technique, MaskTechnique):
        raise TypeError(f"prune takes a technique with masks such as GradualMagnitude(OneShot(0.8)), got {technique!r}")
    schedule = technique.schedule
    if not schedule.due(0) or schedule(0) != schedule.final or schedule.final == 0:
        raise ValueError(f"{schedule} does not reach a sparsity at once; use OneShot(sparsity)")
    if evaluate is not None:
        check_evaluate(evaluate)
    check_progress(progress)
    by_blocks = batches is not None and (reconstruct or (technique.evidence.inputs and calibrate is None))
    walk = {"blocks": blocks, "reconstruct": reconstruct, "device": device, "resume": resume, "progress": progress}
    _check_use(model, technique, batches, by_blocks=by_blocks, calibrated=calibrate is not None, walk=walk)
    if by_blocks and batches is not None:
        batches = list(batches)  # for the blocks, and then for the batch norms
    home = usable(device)
    finished: Finished | None = None
    with all_or_nothing(model) as originals:
        before = None if evaluate is None else metric_of(evaluate, model)
        cost = Cost(model, home)
        if by_blocks and batches is not None:
            planned = plan(model, technique.fitting, batches, select=select, blocks=blocks)
            if resume is not None:
                settings = {"technique": technique, "seed": seed, "keep_zeros": keep_zeros, "reconstruct": reconstruct}
                finished = Finished(Path(resume), model, planned.blocks, planned.examples, settings)
            layers = prune_blocks(
                *(model, technique, planned, originals),
                seed=seed,
                keep_zeros=keep_zeros,
                reconstruct=reconstruct,
                device=home,
                finished=finished,
                progress=progress,
            )
            skipped = planned.skipped
        else:
            layers, skipped = _prune_whole(
                *(model, technique, originals), select=select, seed=seed, keep_zeros=keep_zeros, calibrate=calibrate
            )
        minutes = cost.minutes
        after, recalibrated = None if evaluate is None else metric_of(evaluate, model), None
        if batches is not None and has_statistics(model):
            recalibrate_batchnorm(model, batches)
            recalibrated = None if evaluate is None else metric_of(evaluate, model)
        if finished is not None:
            finished.end(model)
        return Pruned(before, after, recalibrated, tuple(layers), skipped, minutes, cost.peak())


def _check_use(
    model: nn.Module,
    technique: MaskTechnique,
    batches: object,
    *,
    by_blocks: bool,
    calibrated: bool,
    walk: Mapping[str, object],
) -> None:
    """Raises TypeError for batches that are none, and ValueError for arguments that would do nothing."""
    if batches is not None:
        check_batches(batches)
    name = type(technique).__name__
    if walk["reconstruct"] and (technique.evidence.differentiates or calibrated):
        raise ValueError(
            f"with reconstruct=True, {name} must see its inputs in batches and nothing else; leave out calibrate, or "
            "prune first, and then call reconstruct(model, dense, batches)"
        )
    if by_blocks:
        return
    if batches is not None and calibrated and technique.evidence.inputs and not has_statistics(model):
        raise ValueError(f"{name} gets its inputs from batches or from calibrate, and both are given; leave out one")
    if batches is not None and not has_statistics(model):
        raise ValueError(
            f"{name} does not look at batches, and the model has no BatchNorm with running statistics; leave out "
            "batches, or prune by a technique that looks at inputs, such as Wanda"
        )
    for argument, value in walk.items():
        if value:
            why = "there are no batches" if batches is None else f"{name} looks at the weights alone"
            raise ValueError(
                f"{argument} is for pruning block after block by inputs, and {why}; leave it out, or pass batches to a "
                "technique that looks at inputs, such as Wanda"
            )


def _prune_whole(
    model: nn.Module,
    technique: MaskTechnique,
    originals: Originals,
    *,
    select: Selection,
    seed: int,
    keep_zeros: bool,
    calibrate: Calibrate | None,
) -> tuple[list[PrunedLayer], dict[str, str]]:
    """Prunes all layers at once."""
    for weight in choose_weights(model, select)[0]:
        originals.keep(weight)
    sparsifier = sparsify(model, technique, select=select, seed=seed, keep_zeros=keep_zeros, calibrate=calibrate)
    weights, skipped = sparsifier.weights, sparsifier.skipped
    sparsifier.finalize()
    return [became(weight) for weight in weights], skipped
