"""What a user should know of masked weights: layers that are empty, and zeros that other code has written over."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from openwork.core.dead_paths import empty_layer
from openwork.core.following import capturing
from openwork.core.masks.counting import count_each
from openwork.core.masks.weight import MaskedWeight, count_masked

if TYPE_CHECKING:
    from openwork.core.masks.mechanism import Masking

_CURE = "give it less sparsity with PerLayer"


@torch.no_grad()
def remarks(weights: Sequence[MaskedWeight]) -> list[str]:
    """What to say before these weights are finalized, in sentences."""
    parameters = [weight.parameter for weight in weights]
    masked = count_masked(weights)
    written = count_each((~weight.mask & (weight.local != 0) for weight in weights), parameters)
    found = []
    if any(written):
        most = max(range(len(weights)), key=written.__getitem__)
        found.append(
            f"finalize zeroes {sum(written)} weights that other code wrote under the masks after the last step, "
            f"{written[most]} of them in {weights[most].name}, so the model's outputs change; after loading an older "
            "checkpoint or averaged weights, evaluate what finalize returns"
        )
    pairs = zip(weights, masked, strict=True)
    return found + [empty_layer(weight.name, _CURE) for weight, count in pairs if count == weight.parameter.numel()]


@torch.no_grad()
def check_first_values(masking: Masking) -> None:
    """Checks before the first step that the weights are those that the first masks were chosen for.

    Loading a checkpoint after `sparsify` replaces them, and so does DistributedDataParallel, in all processes but the
    first. Zeros at other places than the masks' are those of another sparsifier: together the two would leave next to
    nothing, or each process something else.

    Raises:
        ValueError: If the weights are sparse already, and by other masks.
    """
    if masking.begun or capturing():
        return
    if masking.pruned:
        _check_values(masking.weights)
    masking.begun = True


def _check_values(weights: Sequence[MaskedWeight]) -> None:
    parameters = [weight.parameter for weight in weights]
    written = count_each((~weight.mask & (weight.local != 0) for weight in weights), parameters)
    if not any(written):
        return
    zero = count_each((weight.mask & (weight.local == 0) for weight in weights), parameters)
    # A layer that begins with zeros alone has them without other masks, and nothing was written to it.
    elsewhere = sum(number for number, others in zip(zero, written, strict=True) if others)
    total, first = sum(written), next(w.name for w, number in zip(weights, written, strict=True) if number)
    if 2 * elsewhere >= total:  # two independent masks of one sparsity have as many of either
        raise ValueError(
            f"{total} weights, {first} among them, are not zero under the masks of sparsify, and {elsewhere} are zero "
            "elsewhere, so other masks have made them sparse; load weights before sparsify, load the sparsifier's "
            "state with the model's, and start all processes from one seed, since DistributedDataParallel copies the "
            "weights of the first"
        )
    warnings.warn(
        f"{total} weights, {first} among them, were written after sparsify had chosen its masks, and this step zeroes "
        "them; load weights before sparsify, if masks are to follow from them",
        stacklevel=2,
    )


def warn_emptied(weights: Sequence[MaskedWeight], keep: Sequence[int]) -> None:
    """Warns of each weight that keeps nothing now, and did keep something before.

    Args:
        weights: The weights.
        keep: How many weights each keeps now.
    """
    emptied = []
    for weight, count in zip(weights, keep, strict=True):
        if not count and not weight.empty:
            emptied.append(weight.name)
        weight.empty = not count
    for name in emptied:  # a warning may be an error, so all are noted before
        warnings.warn(empty_layer(name, _CURE), stacklevel=2)
