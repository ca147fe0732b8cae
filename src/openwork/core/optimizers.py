"""Following optimizers: checks that they own every weight once, and hooks around their steps."""

import weakref
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from openwork.core.selection import Select, Weight

Groups = list[dict[str, Any]]
"""Parameter groups, which an optimizer takes instead of parameters."""


def check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Checks that a sparsifier can follow the optimizer.

    Raises:
        TypeError: If it is a wrapper that runs no step hooks.
        ValueError: If it is LBFGS.
    """
    name = type(optimizer).__name__
    if not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        raise TypeError(f"{name} runs no step hooks; attach the torch optimizer, such as the one inside: .optimizer")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(
            "LBFGS cannot be attached: one step evaluates the model many times, where no hook can put zeros "
            "back, and its history is one flat vector that no mask fits; take SGD or Adam"
        )


def check_ownership(needed: dict[str, nn.Parameter], optimizers: list[torch.optim.Optimizer]) -> None:
    """Checks that each parameter in ``needed``, by name, has one optimizer.

    Raises:
        ValueError: If none of the optimizers owns a parameter, or two of them do.
    """
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


def shares(weights: list[Weight], optimizers: list[torch.optim.Optimizer]) -> dict[torch.optim.Optimizer, list[int]]:
    """The indices of the weights that each optimizer moves; the last one also gets those that none moves."""
    *others, last = optimizers
    shares = {}
    rest = list(range(len(weights)))
    for optimizer in others:
        ids = parameter_ids(optimizer)
        shares[optimizer] = [index for index in rest if id(weights[index].parameter) in ids]
        rest = [index for index in rest if index not in shares[optimizer]]
    return {**shares, last: rest}


class _Call(dict[str, Any]):
    """The keyword arguments of a running step: as an object of its own, it lives as long as the call."""

    def __init__(self, kwargs: dict[str, Any]) -> None:
        super().__init__(kwargs)
        self.given = kwargs  # perhaps the call of another sparsifier that follows this optimizer


def parameter_groups(model: nn.Module, weight_decay: float, *, decayed: Select, spared: Collection[int]) -> Groups:
    """Parameter groups of all parameters: the decayed ones, and the others, whose weight decay is 0.

    Args:
        model: The model.
        weight_decay: That of the decayed parameters.
        decayed: Which parameters decay.
        spared: The ``id`` of each parameter that does not decay, even if ``decayed`` selects it.
    """
    chosen: dict[int, nn.Parameter] = {}
    for prefix, module in model.named_modules():
        for leaf, parameter in module._parameters.items():
            name = f"{prefix}.{leaf}" if prefix else leaf
            if parameter is not None and id(parameter) not in spared and decayed(name, parameter, module):
                chosen[id(parameter)] = parameter
    parts = ([p for p in model.parameters() if (id(p) in chosen) is kept] for kept in (True, False))
    decays = zip(parts, (weight_decay, 0.0), strict=True)
    return [{"params": parameters, "weight_decay": decay} for parameters, decay in decays if parameters]


def follow(
    optimizer: torch.optim.Optimizer, prepare: Callable[[], None], finish: Callable[[bool], None], *, once: bool
) -> list[RemovableHandle]:
    """Hooks the optimizer: calls ``prepare`` before each update of the weights and ``finish`` after each step.

    Args:
        optimizer: The optimizer.
        prepare: Called when the gradients are there: before the step, or after the closure of ``step(closure)``.
        finish: Called with whether the weights were moved; a GradScaler may keep a fused optimizer from moving them.
        once: Refuse to evaluate a closure a second time after ``prepare``.

    Returns:
        The hooks' handles.
    """
    prepared = 0  # times within the running step
    depth = 0  # of steps within steps
    running: weakref.ref[_Call] | None = None  # the outermost call

    def ready() -> None:
        nonlocal prepared
        prepare()
        prepared += 1

    def before(_: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal prepared, depth, running
        # A step that calls its base class's step runs the hooks twice: then the outer call is alive. A call that has
        # failed may be alive as well, in a traceback that is kept, but then steps are deeper within each other than
        # there are classes whose step has hooks.
        if running is not None and running() is not None and 0 < depth < _steps_with_hooks(optimizer):
            depth += 1
            return None
        prepared = depth = 0
        closure: Callable[[], Any] | None = args[1] if len(args) > 1 else kwargs.get("closure")

        def closure_then_ready() -> Any:
            nonlocal depth
            assert closure is not None
            if once and prepared:
                raise ValueError(
                    f"{type(optimizer).__name__} calls its closure again within one step, where hidden='trained' would "
                    "show it the hidden values; take hidden='frozen'"
                )
            try:
                loss = closure()
                ready()
            except BaseException:
                depth = 0  # the step has failed, unless the optimizer goes on
                raise
            depth = depth or 1
            return loss

        call = _Call(kwargs)
        if closure is None:
            ready()
        elif len(args) > 1:
            args = (args[0], closure_then_ready, *args[2:])
        else:
            call["closure"] = closure_then_ready
        running, depth = weakref.ref(call), 1
        return args, call

    def after(_: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal depth
        depth -= 1
        if depth:
            return
        if not prepared:
            raise ValueError(
                f"{type(optimizer).__name__} ignored the closure of step(closure); call the closure first, then step()"
            )
        finish(not overflowed(optimizer))

    # A compiled training step leaves the hooks out: a mask update is no graph.
    pre, post = (torch.compiler.disable(hook) for hook in (before, after))  # type: ignore[no-untyped-call]
    return [optimizer.register_step_pre_hook(pre), optimizer.register_step_post_hook(post)]


def overflowed(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a GradScaler keeps a fused optimizer from moving the weights in the step that is running."""
    found = getattr(optimizer, "found_inf", None)  # a tensor, set only during the step
    return found is not None and bool(found)


def _steps_with_hooks(optimizer: torch.optim.Optimizer) -> int:
    """How many of the optimizer's classes define a step that torch has given hooks."""
    steps = (vars(kind).get("step") for kind in type(optimizer).__mro__)
    return sum(getattr(step, "hooked", False) for step in steps)


def _some(names: Iterable[str], most: int = 3) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
