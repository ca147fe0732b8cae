"""The errors of selections that fit nothing, which say what the model has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from openwork.core.beneath import computed_from, weight_above
from openwork.core.names import fits, nearest

if TYPE_CHECKING:
    from openwork.core.selection import Excluding, Matching, Select, Site, Weight

    Tensors = list[tuple[nn.Parameter, list[Site]]]


def check_strict(
    model: nn.Module,
    chain: list[Matching | Excluding],
    tensors: Tensors,
    chosen: list[Weight],
    reasons: dict[str, str],
) -> None:
    """Raises ValueError for a pattern that fits nothing.

    Args:
        model: The model.
        chain: The selections by name.
        tensors: The model's parameters with their places.
        chosen: What is selected.
        reasons: Why a parameter holds no numbers, by name; "" where it does.
    """
    everything = [site.name for _, sites in tensors for site in sites]
    selected = [site.name for weight in chosen for site in weight.sites]
    for each in chain:
        for pattern in each.patterns:
            if any(fits(pattern, name) for name in (selected if each.picks else everything)):
                continue
            found = next((sites[0].name for _, sites in tensors if any(fits(pattern, s.name) for s in sites)), None)
            if found is None:
                raise ValueError(
                    f"{pattern!r} fits no parameter or module of {type(model).__name__}; {nearest(pattern, everything)}"
                )
            if beneath := _beneath(model, chain, chain[-1].among, tensors, pattern):
                raise ValueError(f"{pattern!r} fits no weight that can be selected, only such as {beneath}")
            why = reasons[found] or f"the selection does not pick it; pass among=all_parameters to {each!r}"
            raise ValueError(f"{pattern!r} fits no weight that can be selected, only such as {found}: {why}")


def nothing_selected(
    model: nn.Module, select: Select, chain: list[Matching | Excluding], tensors: Tensors, codes: dict[str, str]
) -> str:
    """Why nothing is selected, and what the model has.

    Args:
        model: The model.
        select: The selection.
        chain: The selections by name in it.
        tensors: The model's parameters with their places.
        codes: Why those that the selection picks hold no numbers, by name.
    """
    if codes:
        listed = "; ".join(f"{name}: {reason}" for name, reason in list(codes.items())[:3])
        return f"all {len(codes)} weights that the selection picks hold no numbers, such as {listed}"
    text = f"the selection matches no parameter of {type(model).__name__}; it has {_inventory(tensors)}"
    names = [site.name for _, sites in tensors for site in sites]
    if beneath := _beneath(model, chain, chain[-1].among if chain else select, tensors, "*"):
        return f"{text}; {beneath}"
    for each in chain:
        for pattern in each.patterns if names else ():
            found = next((name for name in names if fits(pattern, name)), None)
            if found is None:
                return f"{text}; {pattern!r} fits none of these, {nearest(pattern, names)}"
            if each.picks:
                return f"{text}; {each!r} fits {found}, which it does not pick without among=all_parameters"
    return text


def _beneath(model: nn.Module, chain: list[Matching | Excluding], among: Select, tensors: Tensors, pattern: str) -> str:
    """The first parameter that the pattern fits and a weight is computed from, with the cure; "" where none is.

    Only of weights that the selections by name, and that which they choose from, pick after the cure.
    """
    for parameter, sites in tensors:
        for site in sites:
            if not fits(pattern, site.name) or not (why := computed_from(site)):
                continue
            name, module = weight_above(model, site)
            names = [name, *(each.name for each in sites)]
            if all(bool(each.named(names)) is each.picks for each in chain) and among(name, parameter, module):
                return f"{site.name}: {why}"
    return ""


def _inventory(tensors: Tensors) -> str:
    lines = [
        f"{sites[0].name} {tuple(parameter.shape)} of {type(sites[0].module).__name__}" for parameter, sites in tensors
    ]
    return "; ".join(lines[:12]) + (f"; and {len(lines) - 12} more" if len(lines) > 12 else "") or "none"
