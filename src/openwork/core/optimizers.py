"""What a sparsifier asks of the optimizers: to own every weight once, and to be followed around their steps."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


def check_optimizer(optimizer: torch.optim.Optimizer, *, masks: bool) -> None:
    """Raises, with the reason, for an optimizer that cannot be followed: TypeError for a wrapper, else ValueError."""
    name = type(optimizer).__name__
    if not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        raise TypeError(f"{name} runs no step hooks; attach the torch optimizer, e.g. the one inside: .optimizer")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(
            "LBFGS cannot be attached: one step evaluates the model many times, where no hook can put zeros "
            "back, and its history is one flat vector that no mask fits; take SGD or Adam"
        )
    if masks and any(group.get("eps") == 0 for group in optimizer.param_groups):
        raise ValueError(
            f"{name} has eps=0 and would make 0 / 0 = NaN of every masked weight, whose gradient and state are zero; "
            "pass an eps such as 1e-8"
        )


def check_ownership(needed: dict[str, nn.Parameter], optimizers: list[torch.optim.Optimizer]) -> None:
    """Raises ValueError for a parameter that none of the optimizers owns, or two of them."""
    owners: dict[int, int] = {}
    for optimizer in optimizers:
        for number in parameter_ids(optimizer):
            owners[number] = owners.get(number, 0) + 1
    missing = [name for name, parameter in needed.items() if id(parameter) not in owners]
    if missing:
        holder = "the optimizer does" if len(optimizers) == 1 else "the optimizers do"
        raise ValueError(f"{holder} not own {_some(missing)}; create it after sparsify, from model.parameters()")
    shared = [name for name, parameter in needed.items() if owners[id(parameter)] > 1]
    if shared:
        raise ValueError(f"two of the optimizers own {_some(shared)}; give each weight to one of them")


def parameter_ids(optimizer: torch.optim.Optimizer) -> set[int]:
    """The ``id`` of each parameter that the optimizer moves."""
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def follow(
    optimizer: torch.optim.Optimizer, prepare: Callable[[], None], finish: Callable[[bool], None], *, once: bool
) -> list[RemovableHandle]:
    """The hooks that call ``prepare`` before each update of the weights and ``finish`` after each step.

    prepare: called when the gradients are there: before the step, or after the closure of ``step(closure)``.
    finish: called with whether the weights were moved; a GradScaler may tell a fused optimizer not to.
    once: refuse to evaluate a closure a second time after ``prepare``.
    """
    prepared = 0  # times within the running step

    def ready() -> None:
        nonlocal prepared
        prepare()
        prepared += 1

    def before(_: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal prepared
        if _in_super_step(optimizer):
            return None
        prepared = 0
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            ready()
            return None

        def closure_then_ready() -> Any:
            if once and prepared:
                raise ValueError(
                    f"{type(optimizer).__name__} calls its closure again within one step, where hidden='trained' would "
                    "show it the hidden values; take hidden='frozen'"
                )
            loss = closure()
            ready()
            return loss

        if len(args) > 1:
            return (args[0], closure_then_ready, *args[2:]), kwargs
        return args, {**kwargs, "closure": closure_then_ready}

    def after(_: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if _in_super_step(optimizer):
            return
        if not prepared:
            raise ValueError(
                f"{type(optimizer).__name__} ignored the closure of step(closure); call the closure first, then step()"
            )
        overflow = getattr(optimizer, "found_inf", None)  # a tensor, set by GradScaler for the time of the step
        finish(overflow is None or not bool(overflow))

    return [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]


def _in_super_step(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the step whose hooks run now is a base class's, called by the optimizer's own: torch hooks both."""
    hook = inspect.currentframe()
    wrapper = hook.f_back.f_back if hook and hook.f_back else None  # torch's, which calls the hooks around ``func``
    running = wrapper.f_locals.get("func") if wrapper else None
    own = getattr(type(optimizer).step, "__wrapped__", None)
    return running is not None and own is not None and running is not own


def _some(names: Iterable[str], most: int = 3) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
