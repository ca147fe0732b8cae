"""What an optimizer keeps for masked weights."""

from collections.abc import Iterable

import torch
from torch import Tensor

from openwork.core.masks.weight import MaskedWeight
from openwork.core.sharded import local

# A zero weight with zero gradient and zero state stays zero under these; subclasses may do anything and do not count.
_ELEMENTWISE = frozenset(
    {
        torch.optim.SGD,
        torch.optim.Adam,
        torch.optim.AdamW,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.Adamax,
        torch.optim.Adagrad,
        torch.optim.Adadelta,
        torch.optim.RMSprop,
    }
)


def keeps_zeros(optimizer: torch.optim.Optimizer | None) -> bool:
    """Whether the optimizer's step leaves a weight at zero if its gradient and state are zero."""
    return type(optimizer) in _ELEMENTWISE


def clear_state(optimizer: torch.optim.Optimizer, weights: Iterable[MaskedWeight]) -> None:
    """Zeroes the optimizer's state under the masks: momentum would move a weight whose gradient is zero."""
    for weight in weights:
        parameter = weight.parameter
        for value in optimizer.state.get(parameter, {}).values():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                local(value).mul_(weight.mask)
