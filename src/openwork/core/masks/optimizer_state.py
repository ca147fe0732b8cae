"""What an optimizer keeps for masked weights: which of it is masked with them, and what would make it NaN.

State is masked by what it is:

* Codes are left alone: whole numbers, bools, 8-bit floats and subclasses of Tensor, such as quantised state. What they
  stand for fades while gradients are zero, and the parameter gets its zeros back after each step.
* What has the shape of a square weight by chance is left alone, such as a preconditioner of Shampoo: a name counts only
  if what other parameters have under it has their shape as well, and one of these is no square matrix.
* What is never negative is left alone: second moments, step sizes, precisions. They scale an update that is 0, and
  where one of them begins at 1 rather than 0, a 0 would be divided by.
* All the rest is momentum, or a copy of the weights such as Lookahead's slow ones. It would move a masked weight.

Under torch's elementwise optimizers all of the weight's shape is masked, so that each state is that of a new weight;
under their subclasses, what torch's class keeps.
"""

import inspect
import itertools
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openwork.core.masks.counting import read_back
from openwork.core.masks.weight import MaskedWeight
from openwork.core.optimizers import unwrapped, wrapper_of
from openwork.core.sharded import local

_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_EPS = re.compile(r"(^|_)eps(\d|_|$)")  # but not the eps of "steps"
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
        torch.optim.SparseAdam,
    }
)

# What these keep for each weight, as their subclasses then do.
_SLOTS = frozenset(
    {
        *("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "sum"),
        *("square_avg", "acc_delta", "grad_avg"),
    }
)


def keeps_zeros(optimizer: torch.optim.Optimizer | None) -> bool:
    """Whether the optimizer's step leaves a weight at zero if its gradient and state are zero."""
    return type(optimizer) in _ELEMENTWISE


def clear_state(optimizer: torch.optim.Optimizer, weights: Sequence[MaskedWeight], *, whole: bool = False) -> None:
    """Zeroes the optimizer's state under the masks: momentum would move a weight whose gradient is zero.

    Args:
        optimizer: The optimizer.
        weights: The weights.
        whole: Zero that of all their elements.
    """
    for part in unwrapped(optimizer):
        names = None if type(part) in _ELEMENTWISE else _elementwise(part)
        slots = _SLOTS if isinstance(part, tuple(_ELEMENTWISE)) else frozenset()
        for weight in weights:
            if not (states := part.state.get(weight.parameter)):
                continue
            mask = weight.mask
            masked = ~mask | whole
            for name, value in states.items():
                if _holds_numbers(value) and local(value).shape == mask.shape:
                    state = local(value)
                    if state.is_sparse:  # an Embedding's momentum: some rows of the matrix
                        state.mul_(0 if whole else mask.to(state))
                    elif names is None or name in slots:
                        state.masked_fill_(masked.to(state.device), 0)
                    elif name in names:
                        signed = state.is_complex() or (state < 0).any()  # on a GPU nobody waits for the answer
                        state.masked_fill_(masked.to(state.device) & signed, 0)


def moved_outside(weights: Sequence[MaskedWeight], optimizer: torch.optim.Optimizer) -> bool:
    """Whether other code has moved a masked weight since the optimizer's last step.

    Raises:
        ValueError: If it is an optimizer that wraps this one, which will do so again.
    """
    places = [~weight.mask & (weight.local != 0) for weight in weights if not weight.restored]
    moved = any(read_back([place.any() for place in places]))
    if moved and (wrapper := wrapper_of(optimizer)):
        raise ValueError(
            f"{type(optimizer).__name__} runs inside {wrapper}, which moves masked weights after its step; detach() "
            f"and attach the {wrapper}"
        )
    return moved


def check_eps(optimizer: torch.optim.Optimizer) -> None:
    """Checks that the optimizer, and those inside it, do not divide by an eps of 0.

    Raises:
        ValueError: If an eps that a user can set is 0, or is 0 in the dtype of a parameter.
    """
    for part in unwrapped(optimizer):
        for group in part.param_groups if _takes_eps(type(part)) else []:
            settings = [(name, value) for name, value in {**vars(part), **group}.items() if _EPS.search(name)]
            dtypes = _FLOATS & {parameter.dtype for parameter in group["params"]}
            for (name, eps), dtype in itertools.product(settings, dtypes):
                if isinstance(eps, int | float) and not torch.tensor(eps, dtype=dtype, device="cpu"):
                    where, better = (f", 0 in {str(dtype).removeprefix('torch.')},", 1e-6) if eps else ("", 1e-8)
                    raise ValueError(
                        f"{type(part).__name__} has {name}={eps:g}{where} and would turn every masked weight into "
                        f"0 / 0 = NaN, since its gradient and state are zero; pass an eps such as {better:g}"
                    )


def _takes_eps(kind: type[Any]) -> bool:
    """Whether users can pass an eps to the optimizer, which is not 0 by default.

    A class that sets it to 0 itself, as one of Lion may, does not divide by it.
    """
    for base in kind.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters
            if any(_EPS.search(each.name) and each.default != 0 for each in parameters.values()):
                return True
            if not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
                return False
    return False


def _elementwise(optimizer: torch.optim.Optimizer) -> set[str]:
    """The names under which the optimizer keeps a number for each weight, and not a square matrix of that shape."""
    found: set[str] = set()
    others: set[str] = set()
    for parameter, state in optimizer.state.items():
        if not isinstance(parameter, Tensor) or not isinstance(state, dict):
            continue
        square = parameter.dim() == 2 and parameter.shape[0] == parameter.shape[1]
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape != parameter.shape:
                others.add(name)
            elif not square:
                found.add(name)
    return found - others


def _holds_numbers(value: object) -> bool:
    """Whether the value is a plain tensor of floats or complex numbers, and no code for some."""
    return (
        isinstance(value, Tensor)
        and type(local(value)) in (Tensor, nn.Parameter)
        and (value.is_floating_point() or value.is_complex())
        and value.element_size() > 1
    )
