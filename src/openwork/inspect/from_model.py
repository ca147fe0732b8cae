"""Counting a live model, which knows its modules."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from openwork.core.converted import refuse_converted
from openwork.core.layout import layout_of, stored_layout
from openwork.core.parameters.weight import ReparameterizedWeight
from openwork.core.selection import Select, Selection, Site, Weight, as_select, find_weights, weight_matrices
from openwork.formats.held import Held
from openwork.formats.layouts import held_weights
from openwork.inspect.counts import Counts
from openwork.inspect.flops import count_flops
from openwork.inspect.from_state import equal, not_counted
from openwork.inspect.layer import count_layer, count_other
from openwork.inspect.names import is_matrix
from openwork.inspect.total import layouts_in, total, value_of


def count_model(model: nn.Module, select: Selection | None, example: Any, masks: Mapping[str, Tensor]) -> Counts:
    """The counts of a module's weights.

    Args:
        model: The module.
        select: Picks the layers; None for `weight_matrices`, or all matrices where that finds none.
        example: An input to count FLOPs for, None for no FLOPs.
        masks: Name -> mask, where a sparsifier is known.

    Raises:
        ValueError: If a weight's zeros cannot be counted, or it is a random variable.
    """
    _check(model)
    tensors = _tensors(model)
    held = _held(model, tensors)
    beside = {part for one in held.values() for part in one.parts[1:]}
    weights = _selected(model, select, held, beside)
    flops = None if example is None else count_flops(model, example)
    layers, inside = [], set()
    for weight in weights:
        inside.add(id(tensors[weight.name]))
        uses = flops.weights.get(weight.name, (0, 0)) if flops else None
        for sites in _alike(weight.sites, held, tensors):
            one = held.get(sites[0].name)
            names = [held[site.name].name if site.name in held else site.name for site in sites]
            owner = model.get_submodule(one.name.rpartition(".")[0]) if one else sites[0].module
            value = value_of(one) if one else tensors[weight.name]
            mask, also = masks.get(weight.name), tuple(names[1:])
            layout = layout_of(owner, names[0].rpartition(".")[2], value.shape)
            if layout is None and value.dim() == 2:
                layout = stored_layout(names[0], value.shape)
            layers.append(count_layer(names[0], value, layout, mask, uses, also))
    others, skipped = [], {}
    for name, parameter in model.named_parameters():
        if id(parameter) in inside or name in beside:
            continue
        reason = "" if name in held else not_counted(name, parameter)
        if reason:
            skipped[name] = reason
        else:
            one = held.get(name) or Held(name, (name,), parameter.detach)
            others.append(count_other(one.name, value_of(one)))
    return total(layers, others, flops, skipped, layouts_in([*held.values()]))


def _alike(sites: Sequence[Site], held: Mapping[str, Held], tensors: Mapping[str, Tensor]) -> list[list[Site]]:
    """The sites of one parameter, grouped by the values that run there: a mask may be on one side alone."""
    groups: list[tuple[list[Tensor], list[Site]]] = []
    for site in sites:
        beside = [tensors[part] for part in held[site.name].parts[1:]] if site.name in held else []
        group = next((group for parts, group in groups if equal(parts, beside)), None)
        if group is None:
            groups.append((beside, [site]))
        else:
            group.append(site)
    return [group for _, group in groups]


def is_random(model: nn.Module) -> bool:
    """Whether weights of the model are random variables."""
    return any(isinstance(module, ReparameterizedWeight) for module in model.modules())


def _check(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ValueError(f"{name} has no values yet; run the model on one batch first")
    if is_random(model):
        raise ValueError(
            f"the weights of {type(model).__name__} are random variables; report on its sparsifier, or on what "
            "finalize() returns"
        )
    refuse_converted(model)
    for name, module in model.named_modules():
        if type(module).__module__.startswith("torch.ao.nn.quantized"):
            raise ValueError(
                f"{name or type(module).__name__} is quantized by torch.ao, which keeps no parameters; "
                "report on the model's state_dict()"
            )


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by each of their names; where there are codes also what the state adds about them."""
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors |= dict(model.named_buffers(remove_duplicate=False))
    if any(parameter.dtype == torch.uint8 for parameter in model.parameters()):
        tensors |= {name: t for name, t in model.state_dict().items() if isinstance(t, Tensor) and name not in tensors}
    return tensors


def _held(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Held]:
    """The weights that several tensors hold, by the name of the parameter with their numbers."""
    held = {}
    for prefix, module in model.named_modules():
        if isinstance(module, ParametrizationList):
            one = _parametrized(model, prefix, module)
            held[one.parts[0]] = one
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{prefix}.")}
    return held | {one.parts[0]: one for one in held_weights(tensors)[0] if one.layout}


def _parametrized(model: nn.Module, prefix: str, computes: ParametrizationList) -> Held:
    """The weight as the model computes it now; whatever its parametrizations are."""
    owner, _, leaf = prefix.rpartition(".")
    owner = owner.rpartition(".")[0] if "." in owner else ""
    parts = [f"{prefix}.{name}" for name, _ in computes.named_parameters()]
    # That of the weight's size first: weight_norm has another original for the norms.
    parts.sort(key=lambda part: ("original" not in part, -model.get_parameter(part).numel()))

    def value() -> Tensor:
        training = [module for module in computes.modules() if module.training]
        try:
            for module in training:  # spectral_norm moves its vectors in training
                module.training = False
            with torch.no_grad():
                weight: Tensor = getattr(model.get_submodule(owner), leaf)
                return weight
        finally:
            for module in training:
                module.training = True

    name = f"{owner}.{leaf}" if owner else leaf
    kinds = ", ".join(type(one).__name__.strip("_") for one in computes)
    return Held(name, tuple(parts), value, f"parametrizations ({kinds})")


def _selected(model: nn.Module, select: Selection | None, held: dict[str, Held], beside: set[str]) -> list[Weight]:
    """The selected weights; those that several tensors hold are asked for by their own names."""

    def renamed(pick: Select) -> Select:
        def chosen(name: str, parameter: nn.Parameter, module: nn.Module) -> bool:
            if name not in held:
                return name not in beside and pick(name, parameter, module)
            weight = held[name].name
            return pick(weight, parameter, model.get_submodule(weight.rpartition(".")[0]))

        return chosen if held else pick

    if select is not None:
        return find_weights(model, renamed(as_select(select)), codes=True)[0]
    tensors = dict(model.named_parameters())
    for pick in (weight_matrices, lambda name, parameter, module: is_matrix(name, parameter, tensors)):
        try:
            return find_weights(model, renamed(pick), codes=True)[0]
        except ValueError:  # it picks nothing
            continue
    return []
