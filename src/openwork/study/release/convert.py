"""A published checkpoint as the weights of the study's model."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch
from torch import Tensor, nn

from openwork.formats.tensorflow.bundle import Bundle
from openwork.study.models.transformer import Transformer
from openwork.study.release import resnet50, transformer
from openwork.study.release.target import Mapping, Target
from openwork.study.release.technique import Count, Technique, check_technique, effective, partner, release_count
from openwork.study.release.variables import Variables


class Model(StrEnum):
    """The release's two models."""

    TRANSFORMER = "transformer"
    RESNET50 = "resnet50"


@dataclass(frozen=True)
class _Kind:
    mark: str
    targets: Callable[[Variables], Mapping]
    model: Callable[[dict[str, torch.Size]], nn.Module]


_KINDS = {
    Model.TRANSFORMER: _Kind(transformer.MARK, transformer.transformer, transformer.model),
    Model.RESNET50: _Kind(resnet50.MARK, resnet50.resnet50, resnet50.model),
}


@dataclass(frozen=True)
class Imported:
    """What `read_release` made of a checkpoint.

    Args:
        model: The study's model, with zeros in its weights; without its heads where these do not show in the shapes, as
            they do not matter to a file of weights.
        release: What the release's script counts; None for a dense checkpoint.
        own: Zeros of the weights that the technique may make sparse, counted in the model.
        everything: Zeros of all parameters of the model.
        dense: The weights that others of their kind are sparse beside, and that have no mask of their own.
        unused: The variables that the model does not need, by the last part of their names.
        notes: What is to be said beside the figures.
    """

    model: nn.Module
    release: Count | None
    own: Count
    everything: Count
    dense: tuple[str, ...]
    unused: dict[str, list[str]]
    notes: tuple[str, ...]


def read_release(prefix: Path, model: Model, technique: Technique, threshold: float | None = None) -> Imported:
    """A checkpoint of the release as the study's model: masks, thresholds or gates applied.

    Args:
        prefix: As `Bundle` takes it.
        model: Which model it is of.
        technique: How it was made sparse.
        threshold: On log alpha, for variational dropout.

    Raises:
        FileNotFoundError: If a file of the checkpoint is missing.
        ValueError: If it is damaged, of another model or technique, or lacks weights of the model or has other shapes.
    """
    variables = Variables(Bundle(prefix))
    _check_model(variables, model)
    check_technique(variables, technique, threshold)
    kind = _KINDS[model]
    mapping = kind.targets(variables)
    missing = [target.key for target in mapping.targets if not target.names]
    if missing:
        raise ValueError(
            f"{variables.bundle.prefix} has no variable for {len(missing)} of {len(mapping.targets)} weights of the "
            f"{model}: {_listed(missing)}; is it a whole checkpoint of the release?"
        )
    _check_shapes(variables, mapping, kind.model)
    state: dict[str, Tensor] = {}
    dense: list[str] = []
    zeros = total = 0
    for target in mapping.targets:
        found, sparse = _weight(variables, target, technique, threshold)
        state[target.key] = found
        if target.sparse and not sparse and technique is not Technique.DENSE:
            dense.append(target.key)
        elif target.sparse:
            zeros, total = zeros + _zeros(found), total + found.numel()
    for key, first, second in mapping.moved:
        state[key] = state[key].clone()
        state[key][[first, second]] = state[key][[second, first]]
    loaded = _loaded(kind.model({key: value.shape for key, value in state.items()}), state)
    parameters = list(loaded.parameters())
    return Imported(
        loaded,
        release_count(variables, technique, threshold),
        Count(zeros, total),
        Count(sum(map(_zeros, parameters)), sum(parameter.numel() for parameter in parameters)),
        tuple(dense),
        variables.unused(),
        mapping.notes,
    )


def _check_model(variables: Variables, model: Model) -> None:
    if variables.matching(_KINDS[model].mark):
        return
    others = [other for other, kind in _KINDS.items() if variables.matching(kind.mark)]
    cure = f"give --model {others[0]}" if others else "its variables are called " + _listed(variables.names)
    raise ValueError(f"{variables.bundle.prefix} is no checkpoint of the release's {model}; {cure}")


def _check_shapes(variables: Variables, mapping: Mapping, model: Callable[[dict[str, torch.Size]], nn.Module]) -> None:
    """Raises ValueError unless the shapes are those of one model, before anything is read."""
    shapes = {target.key: _shape(variables, target) for target in mapping.targets}
    expected = {key: tensor.shape for key, tensor in model(shapes).state_dict().items()}
    for target in mapping.targets:
        found, right = shapes[target.key], expected.get(target.key)
        if found != right:
            needs = f"{target.key} of the model needs {list(right)}" if right else "the model has no such weight"
            raise ValueError(
                f"{target.names[0]!r} of {variables.bundle.prefix} has the shape {list(found)} in our order of axes, "
                f"and {needs}; is it a checkpoint of the release?"
            )


def _shape(variables: Variables, target: Target) -> torch.Size:
    shapes = [variables.shape(name) for name in target.names]
    axes = target.axes or range(len(shapes[0]))
    if len(axes) != len(shapes[0]) or any(len(s) != len(axes) or s[1:] != shapes[0][1:] for s in shapes):
        raise ValueError(f"{target.names[0]!r} of {variables.bundle.prefix} has the shape {list(shapes[0])}, which is "
                         f"none for {target.key}; is it a checkpoint of the release?")  # fmt: skip
    whole = (sum(shape[0] for shape in shapes), *shapes[0][1:]) if shapes[0] else ()
    return torch.Size(whole[axis] for axis in axes)


def _weight(variables: Variables, target: Target, technique: Technique, threshold: float | None) -> tuple[Tensor, bool]:
    """The weight in our order of axes, and whether the checkpoint says which of its weights are zero."""
    weight = torch.cat([variables.tensor(name).float() for name in target.names])
    partners = [partner(variables, technique, name) for name in target.names] if target.sparse else []
    names = list(dict.fromkeys(name for name in partners if name))
    if names:
        beside = torch.cat([variables.tensor(name).float() for name in names])
        if beside.shape != weight.shape:
            raise ValueError(
                f"{names[0]!r} of {variables.bundle.prefix} has the shape {list(beside.shape)}, and the weights beside "
                f"it {list(weight.shape)}; is it a checkpoint of the release?"
            )
        try:
            weight = effective(weight, beside, technique, threshold)
        except ValueError as error:
            raise ValueError(f"{error}: {names[0]!r} of {variables.bundle.prefix}; is it a checkpoint of the release?"
                             ) from error  # fmt: skip
    return (weight.permute(target.axes) if target.axes else weight).contiguous(), bool(names)


def _loaded(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """The model with the state, and with what the checkpoint has no variable for: counters, and the tied matrix."""
    rest = {name: torch.zeros_like(buffer, device="cpu") for name, buffer in model.named_buffers()}
    model.load_state_dict(rest | state, strict=False, assign=True)
    if isinstance(model, Transformer):
        model.softmax.weight = model.embedding.weight
    return model


def _zeros(tensor: Tensor) -> int:
    return tensor.numel() - int(tensor.count_nonzero())


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest
