"""Which positions of a batch are padding: what its masks say of it, in whatever form, and its labels."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_ENCODER = ("attention_mask", "src_key_padding_mask", "key_padding_mask", "memory_key_padding_mask")
_DECODER = ("decoder_attention_mask", "tgt_key_padding_mask")
_NO_LABEL = -100
"""What losses ignore."""


def find_added(batches: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """The names of masks that are added to scores: 0 where a position is seen, large and negative where it is not.

    A batch without padding does not tell, so all are looked at. torch's ``..._key_padding_mask`` says so by its dtype.

    Raises:
        ValueError: If a mask has numbers of both signs.
    """
    found = set()
    for name in (*_ENCODER, *_DECODER):
        masks = [mask for batch in batches if isinstance(mask := batch.get(name), Tensor)]
        below, above = any(bool((mask < 0).any()) for mask in masks), any(bool((mask > 0).any()) for mask in masks)
        if below and above and all(mask.dim() == 2 for mask in masks):
            raise ValueError(
                f"{name} holds numbers of both signs, so that it is not known where padding is; give it 1 for tokens "
                "and 0 for padding, or 0 for tokens and -inf for padding"
            )
        # Of a mask that hides nothing it is known where torch or attention itself takes it.
        adds = name.endswith("key_padding_mask") or any(mask.dim() > 2 for mask in masks)
        if below or (adds and not above and any(mask.is_floating_point() for mask in masks)):
            found.add(name)
    return frozenset(found)


def counted_of(model: nn.Module, batch: Mapping[str, Any], added: frozenset[str]) -> tuple[Tensor, ...]:
    """The masks of a batch, (batch, positions), True where a position is no padding.

    Args:
        model: The model.
        batch: What it is called with, by name.
        added: What `find_added` found.

    Returns:
        A mask for the encoder's positions and one for the decoder's, as far as there are any; none, with a warning,
        where it is not known which are whose.
    """
    ours = _first(batch, _ENCODER, added)
    taken = (*inspect.signature(model.forward).parameters, *batch)
    if not any(name.startswith(("decoder_", "tgt")) for name in taken):
        return () if ours is None else (ours,)
    theirs = _first(batch, _DECODER, added)
    if theirs is None:
        theirs = _labelled(batch)
    masks = tuple(mask for mask in (ours, theirs) if mask is not None)
    # Without an input of its own the decoder gets the encoder's.
    inputs = ("input_ids", "inputs_embeds", "src", "memory")
    places = [
        _places(ours, batch, inputs),
        _places(theirs, batch, ("decoder_input_ids", "decoder_inputs_embeds", "tgt", "labels"))
        or _places(ours, batch, inputs),
    ]
    alike = len(masks) == 2 and torch.equal(*masks)
    if places[0] == places[1] and not alike and not all(mask.all() for mask in masks):
        warnings.warn(
            "encoder and decoder have as many positions, so that padding cannot be told from tokens and counts as "
            "input; pad one of them to another length",
            stacklevel=2,
        )
        return ()
    return masks


def _first(batch: Mapping[str, Any], names: Sequence[str], added: frozenset[str]) -> Tensor | None:
    """The first of these masks that a batch has, as `counted_of` returns it."""
    for name in names:
        mask = batch.get(name)
        if not isinstance(mask, Tensor) or mask.dim() < 2:
            continue
        if name in added:
            seen = mask.float().exp() > torch.finfo(torch.float32).eps  # its weight is something beside that of others
        else:
            seen = ~mask.bool() if name.endswith("key_padding_mask") else mask.bool()
        # With more axes it says which position sees which, (batch, ..., who, whom): what none sees is padding.
        return seen.flatten(1, -2).any(1) if mask.dim() > 2 else seen
    return None


def _labelled(batch: Mapping[str, Any]) -> Tensor | None:
    """Where a decoder has labels; its inputs are made from them. Without a decoder they do not tell padding from text.

    Those of an encoder leave out words that are not masked, and those of a chat the question.
    """
    labels = batch.get("labels")
    if not isinstance(labels, Tensor) or labels.dim() != 2 or not bool((labels == _NO_LABEL).any()):
        return None
    return labels != _NO_LABEL


def _places(mask: Tensor | None, batch: Mapping[str, Any], names: Sequence[str]) -> list[int]:
    """How many examples and positions there are, in order of size, as some have the batch first and others not."""
    known = [mask, *(batch.get(name) for name in names)]
    return next((sorted(each.shape[:2]) for each in known if isinstance(each, Tensor) and each.dim() > 1), [])


def lying(masks: Sequence[Tensor], module: nn.Module, value: object) -> tuple[Tensor, ...]:
    """The masks as the positions of a block's input lie: (positions, batch) where these are in front.

    Args:
        masks: (batch, positions).
        module: The block. Where there are as many examples as positions, those of torch say which are in front; of
            others it is taken to be the batch.
        value: Its input.
    """
    shape = value.shape[:2] if isinstance(value, Tensor) and value.dim() > 2 else ()
    ways = [any(each == shape for each in shapes) for shapes in ([m.shape for m in masks], [m.T.shape for m in masks])]
    layers = nn.TransformerEncoderLayer | nn.TransformerDecoderLayer
    said = getattr(module.self_attn if isinstance(module, layers) else module, "batch_first", True)
    turned = not said if ways[0] == ways[1] else ways[1]
    return tuple(mask.T for mask in masks) if turned else tuple(masks)
