"""A mask update: scores, how many weights each tensor keeps, and which.

Scores are DTensors where FSDP2 shards the weight, so that a technique's mean or maximum is that of the whole tensor.
Under a pattern they have the outputs first, and a group's weights share one score.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from openwork.core.patterns import Unstructured, check_count, check_scores, check_whole_groups, output_first
from openwork.core.selection import Weight
from openwork.core.sharded import is_sharded, local, shard_like, shards_of
from openwork.core.technique import MaskTechnique
from openwork.core.threshold import seeded_generator


def score(
    technique: MaskTechnique,
    weights: list[Weight],
    values: Sequence[Tensor],
    masks: Sequence[Tensor],
    allowed: Sequence[Tensor],
    references: Sequence[Tensor],
    *,
    seed: int,
    step: int = 0,
) -> dict[str, Tensor]:
    """What allocation and pattern rank by, by name.

    values: the weights with their hidden values, whole or sharded; masks, and allowed where it is not empty: the parts
    that are here, non-zero = keep, and where a weight may ever be kept; references: the technique's.
    """
    scores = {}
    for index, (weight, value) in enumerate(zip(weights, values, strict=True)):
        generator = seeded_generator(seed, step, weight.name)
        found = technique.scores(value, shard_like(masks[index].bool(), value), generator, references[index])
        if shards_of(found) != shards_of(value):
            raise TypeError(
                f"{type(technique).__name__}.scores must return scores sharded like the weight it got, and returned a "
                f"{type(found).__name__} for {weight.name}; compute them from the weight itself"
            )
        if allowed:
            found = torch.where(shard_like(allowed[index].to(found.device), value), found, -math.inf)
        if technique.pattern != Unstructured():
            if is_sharded(value):
                raise ValueError(
                    f"{technique.pattern} needs whole tensors, and fully_shard spreads {weight.name} over processes; "
                    "use DistributedDataParallel, or Unstructured()"
                )
            found = technique.pattern.share(output_first(found, weight.sites[0].module))
        scores[weight.name] = found
    return scores


def count(
    technique: MaskTechnique, weights: list[Weight], scores: dict[str, Tensor], step: int | None = None
) -> dict[str, int]:
    """How many weights each tensor keeps after this step, or at the schedule's end; by name."""
    schedule = technique.schedule
    sparsity = schedule.final if step is None else schedule(step)
    groups = _groups(technique, weights)
    keep = technique.allocation(scores, sparsity, schedule.final, groups)
    if step is None:
        check_whole_groups(keep, groups, sparsity)
    return keep


def choose(
    technique: MaskTechnique, weights: list[Weight], scores: dict[str, Tensor], *, seed: int, step: int
) -> list[Tensor]:
    """The new masks: bool, True = keep, the parts that are here. Raises RuntimeError where they miss their counts."""
    for name, found in scores.items():
        check_scores(name, found)
    keep, groups = count(technique, weights, scores, step), _groups(technique, weights)
    masks = []
    for weight in weights:
        # Ties have a generator of their own: the draw does not depend on how many numbers the scores used up.
        ties = seeded_generator(seed, step, f"{weight.name}/ties")
        mask = technique.pattern.mask(scores[weight.name], keep[weight.name], ties)
        check_count(weight.name, scores[weight.name], mask, keep[weight.name], groups[weight.name])
        if technique.pattern != Unstructured():
            mask = output_first(mask, weight.sites[0].module)
        masks.append(local(mask))
    return masks


def _groups(technique: MaskTechnique, weights: list[Weight]) -> dict[str, int]:
    shapes = {w.name: output_first(w.parameter, w.sites[0].module).shape for w in weights}
    return {name: technique.pattern.group(shape) for name, shape in shapes.items()}
