"""Models with the zeros of their masks for good."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openwork.core.copies import copied_model, plain_copy
from openwork.core.masks.weight import MaskedWeight
from openwork.core.stacked import stacked
from openwork.kernels.masks import mask_

_DICTS = (dict, OrderedDict)


def masked_copy(model: nn.Module, weights: Sequence[MaskedWeight]) -> nn.Module:
    """A copy of the model that owns the weights, with their zeros; what another sparsifier made random is plain there.

    Raises:
        ValueError: If FSDP2 shards them, or the model cannot be copied.
    """
    if any(weight.sharded for weight in weights):
        raise ValueError("FSDP2 models cannot be copied; save model.state_dict(), whose weights are masked")
    copies: dict[int, Any] = {}
    model = plain_copy(model, copies)
    _zero([copies[id(weight.parameter)].data for weight in weights], [weight.mask for weight in weights])
    return model


def masked_copies(models: Sequence[nn.Module], weights: Sequence[Sequence[MaskedWeight]]) -> list[nn.Module]:
    """What `masked_copy` returns for each of several models of one shape, by the operations on the device for one.

    Args:
        models: The models.
        weights: The weights of each.
    """
    copies = [_sharing_copy(model) for model in models]
    whole = [stacked(each) for each in zip(*map(_tensors, copies), strict=True)]  # from here on they share no memory
    places = {id(tensor): place for place, tensor in enumerate(_tensors(models[0]))}
    masks = [torch.stack([weight.mask for weight in each]) for each in zip(*weights, strict=True)]
    _zero([whole[places[id(weight.parameter)]] for weight in weights[0]], masks)
    return copies


@torch.no_grad()
def zero_for_good(weights: Sequence[MaskedWeight]) -> None:
    """Puts the zeros into the parameters, whose masks are no longer needed."""
    _zero([weight.local for weight in weights], [weight.mask for weight in weights])


def _zero(values: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    mask_(values, masks)
    # A negative weight times 0 is -0.0, whose sign would cost a bit in every compressed file; -0.0 + 0.0 is 0.0.
    torch._foreach_add_(list(values), 0.0)


def _sharing_copy(model: nn.Module) -> nn.Module:
    """A copy of the model whose parameters and buffers are others in the same memory."""
    parameters = {id(each): type(each)(each.data, each.requires_grad) for each in model.parameters()}
    shared = parameters | {id(each): each.data for each in model.buffers()}
    # Most of a module is dictionaries of hooks, empty ones, whose copies would take most of the time.
    empty = [each for module in model.modules() for each in vars(module).values() if type(each) in _DICTS and not each]
    return copied_model(model, shared | {id(each): type(each)() for each in empty})


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
