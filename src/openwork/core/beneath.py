"""Parameters from which something else computes a layer's weight, and how to end that."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

if TYPE_CHECKING:
    from openwork.core.selection import Site


def computed_from(site: Site) -> str:
    """What computes a weight from the parameter, and the cure; "" where nothing is known to."""
    module, leaf = site.module, site.leaf
    if isinstance(module, ParametrizationList):
        return "a parametrization computes the weight from it; call torch.nn.utils.parametrize.remove_parametrizations"
    plain = leaf.removesuffix("_orig")
    if plain != leaf and f"{plain}_mask" in module._buffers:
        return f"torch.nn.utils.prune masks it; call torch.nn.utils.prune.remove(layer, {plain!r})"
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm | SpectralNorm) and leaf in [
            f"{hook.name}{end}" for end in ("_g", "_v", "_orig")
        ]:
            norm = "weight_norm" if isinstance(hook, WeightNorm) else "spectral_norm"
            return f"{norm} computes the weight from it; call torch.nn.utils.remove_{norm}(layer, {hook.name!r})"
    return ""


def weight_above(model: nn.Module, site: Site) -> tuple[str, nn.Module]:
    """The name and the module of the weight that is computed from the parameter, as they are after the cure.

    Args:
        model: The model.
        site: A parameter for which `computed_from` says something.
    """
    if not isinstance(site.module, ParametrizationList):
        return re.sub(r"_(orig|g|v)$", "", site.name), site.module
    before, _, after = f".{site.name}".rpartition(".parametrizations.")
    return f"{before}.{after.partition('.')[0]}"[1:], model.get_submodule(before[1:])
