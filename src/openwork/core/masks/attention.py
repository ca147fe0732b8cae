"""The inputs of nn.MultiheadAttention's matrices, which it multiplies without calling a layer."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from openwork.core.forward import plain_attention
from openwork.core.selection import Site

_READS = {"in_proj_weight": "query", "q_proj_weight": "query", "k_proj_weight": "key", "v_proj_weight": "value"}


def attention_of(site: Site) -> nn.MultiheadAttention | None:
    """The attention that multiplies a weight itself; None where it is no attention's."""
    around = site.module if site.leaf in _READS else site.parent
    if not isinstance(around, nn.MultiheadAttention) or type(around).forward is not nn.MultiheadAttention.forward:
        return None
    reads = site.leaf in _READS or (site.leaf == "weight" and site.module is around.out_proj)
    return around if reads else None


def attended(site: Site, attention: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """What a call multiplies with a weight: (batch, positions, in), or as the call has its axes.

    Raises:
        ValueError: If query, key and value differ, and one weight holds their three matrices.
    """
    if site.module is not attention:
        return _joined_heads(attention, args, kwargs)
    if site.leaf == "in_proj_weight" and crosses(args, kwargs):
        raise ValueError(crossed(site.name))
    found: Tensor = _named(args, kwargs)[_READS[site.leaf]]
    return found


def crosses(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call of an attention gets a key or a value that is not its query."""
    given = _named(args, kwargs)
    query = given["query"]
    return not all(
        other is query or (other.shape == query.shape and torch.equal(other, query))
        for other in (given["key"], given["value"])
    )


def crossed(name: str) -> str:
    """Why an attention's packed weight has no inputs of its own, and the cure."""
    return (
        f"{name} holds the matrices of a query, a key and a value that differ, and a matrix has one kind of input; "
        f"leave it out with select=excluding({name!r})"
    )


def _named(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    return dict(zip(("query", "key", "value"), args, strict=False)) | kwargs


def _joined_heads(attention: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Its output before the last product: that with a matrix of ones on the diagonal."""
    own, width = attention.out_proj, attention.embed_dim
    unit = nn.Parameter(torch.eye(width, dtype=own.weight.dtype, device=own.weight.device))
    stand_in = copy.copy(own)  # a new layer would draw random numbers
    stand_in._parameters = {"weight": unit, "bias": None}
    attention._modules["out_proj"] = stand_in
    try:
        with plain_attention():
            found: Tensor = attention.forward(*args, **kwargs)[0]
            return found
    finally:
        attention._modules["out_proj"] = own
