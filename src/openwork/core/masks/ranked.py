"""Scores as allocation and pattern rank them, and what they are ranked by, before there are any.

Scores are DTensors where FSDP2 shards the weight, so that a technique's mean or maximum is that of the whole tensor.
Under a pattern they have the outputs first, and a group's weights share one score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from openwork.core.masks.check import changed
from openwork.core.masks.evidence import View
from openwork.core.masks.weight import MaskedWeight
from openwork.core.precision import exact
from openwork.core.sharded import is_sharded, shard_like, shards_of, version

if TYPE_CHECKING:
    from openwork.core.masks.technique import MaskTechnique


def scored(technique: MaskTechnique, pairs: Sequence[tuple[MaskedWeight, View]]) -> list[Tensor]:
    """The technique's scores of these weights, as allocation and pattern rank them."""
    views = [_for_technique(view) for _, view in pairs]
    # torch computes on several tensors at once only if they are spread alike
    meshes = [view.weight.device_mesh if is_sharded(view.weight) else None for view in views]
    found: list[object] = [None] * len(views)
    for mesh in dict.fromkeys(meshes):
        places = [place for place, each in enumerate(meshes) if each == mesh]
        some = _asked(technique, [views[place] for place in places], "scores", technique.all_scores)
        for place, one in zip(places, some, strict=True):
            found[place] = one
    return [
        ranked(technique, weight, view, one, "scores")
        for (weight, _), view, one in zip(pairs, views, found, strict=True)
    ]


def ordered(technique: MaskTechnique, weight: MaskedWeight, view: View, method: str) -> Tensor:
    """What the technique's ``method``, scores or growth, returns, as allocation and pattern rank it."""
    view = _for_technique(view)
    ask = getattr(technique, method)
    (found,) = _asked(technique, [view], method, lambda views: [ask(views[0])])
    return ranked(technique, weight, view, found, method)


def _for_technique(view: View) -> View:
    values = exact(view.weight)
    if values is view.weight and not view.step:  # sparsify leaves the model as it was, also where it refuses a
        values = values.clone()  # technique that writes to its view
    return view if values is view.weight else replace(view, weight=values)


def _asked(
    technique: MaskTechnique,
    views: Sequence[View],
    method: str,
    ask: Callable[[Sequence[View]], Sequence[object]],
) -> Sequence[object]:
    """What the technique answers, who may not write to what it is shown."""
    before = [version(view.weight) for view in views]
    try:
        found = ask(views)
    except KeyError as error:
        if views[0].step or technique.evidence.gradients == "never":
            raise
        raise ValueError(
            f"{type(technique).__name__}.{method} reads the evidence {error} before there are gradients; pass "
            "calibrate=lambda model: loss(model).backward(), or read it only where view.step > 0"
        ) from error
    for view, then in zip(views, before, strict=True):
        if version(view.weight) != then:
            raise changed(f"{type(technique).__name__}.{method}", f"view.weight of {view.name}")
    return found


def ranked(technique: MaskTechnique, weight: MaskedWeight, view: View, found: object, method: str) -> Tensor:
    """Scores as allocation and pattern rank them."""
    if not isinstance(found, Tensor) or _unlike(found, view.weight):
        what = f"a {type(found).__name__}"
        if isinstance(found, Tensor):
            kind = f" of {found.dtype}, {found.layout}, on {found.device}," if _strange(found) else ""
            what += f"{kind} of shape {tuple(found.shape)}"
        raise TypeError(
            f"{type(technique).__name__} must return scores of the shape {tuple(view.weight.shape)}, sharded like the "
            f"weight it got, and returned {what} for {weight.name}; compute {method} from the weight itself"
        )
    found = exact(found) if found.is_floating_point() else found.float()
    if weight.allowed is not None:
        found = torch.where(shard_like(weight.allowed.to(found.device), view.weight), found, -math.inf)
    _refuse_shards(technique, weight)
    if technique.pattern.whole_tensors:
        found = technique.pattern.group_scores(turned(technique, weight, found))
    return found


def shapes_like(
    technique: MaskTechnique, weights: Sequence[MaskedWeight], values: Sequence[Tensor]
) -> dict[str, Tensor]:
    """A tensor of the shape, device and sharding of each weight's scores, by name; no memory is taken.

    Args:
        technique: The technique, with its pattern.
        weights: The weights.
        values: Those of each, sharded like the weight.
    """
    found = {weight.name: value for weight, value in zip(weights, values, strict=True)}
    for weight in weights if technique.pattern.whole_tensors else ():
        _refuse_shards(technique, weight)
        if layout := weight.source.layout:
            shape = layout.merged_shape(technique.pattern.along or "outputs")
            found[weight.name] = found[weight.name].new_empty(()).expand(shape)
    return found


def groups_of(technique: MaskTechnique, like: Mapping[str, Tensor]) -> dict[str, int]:
    """How many weights of each tensor the pattern keeps or removes together, by name.

    Args:
        technique: The technique, with its pattern.
        like: Tensors of the shapes of the scores.
    """
    return {name: technique.pattern.group(tensor.shape) for name, tensor in like.items()}


def turned(technique: MaskTechnique, weight: MaskedWeight, tensor: Tensor) -> Tensor:
    """The tensor as the pattern looks at it, with the outputs first."""
    pattern = technique.pattern
    layout = weight.source.layout if pattern.whole_tensors else None
    return layout.merged(tensor, pattern.along or "outputs") if layout else tensor


def as_stored(technique: MaskTechnique, weight: MaskedWeight, tensor: Tensor) -> Tensor:
    """A tensor that the pattern made, as the weight is stored."""
    pattern = technique.pattern
    layout = weight.source.layout if pattern.whole_tensors else None
    return layout.as_stored(tensor, pattern.along or "outputs") if layout else tensor


def _unlike(found: Tensor, weight: Tensor) -> bool:
    """Whether these cannot be scores of the weight."""
    if _strange(found) or found.shape != weight.shape:
        return True
    return (is_sharded(found) or is_sharded(weight)) and shards_of(found) != shards_of(weight)


def _strange(found: Tensor) -> bool:
    """Whether these are no real numbers that can be ranked."""
    return found.is_complex() or found.is_meta or found.layout != torch.strided


def _refuse_shards(technique: MaskTechnique, weight: MaskedWeight) -> None:
    if technique.pattern.whole_tensors and is_sharded(weight.parameter):
        raise ValueError(
            f"{technique.pattern} needs whole tensors, and fully_shard spreads {weight.name} over processes; "
            "use DistributedDataParallel, or Unstructured()"
        )
