"""Following optimizers: checks that they own every weight once, and hooks around their steps."""

import gc
import inspect
import weakref
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from openwork.core.names import few
from openwork.core.selection import Select, Weight

Groups = list[dict[str, Any]]
"""Parameter groups, which an optimizer takes instead of parameters."""


def unwrapped(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    """The optimizer, and those inside it that move the same parameters, as Lookahead and SAM have them; itself first.

    Which of them is called to step depends on the wrapper and on the training loop, so all of them matter.
    """
    found, ids = [optimizer], parameter_ids(optimizer)
    for wrapper in found:  # grows on the way
        for inside in vars(wrapper).values():
            if isinstance(inside, torch.optim.Optimizer) and inside not in found and parameter_ids(inside) == ids:
                found.append(inside)
    return found


def wrapper_of(optimizer: torch.optim.Optimizer) -> str | None:
    """The name of an optimizer that wraps this one. Slow: nothing but the garbage collector knows of it."""
    for each in gc.get_objects():
        if issubclass(type(each), torch.optim.Optimizer) and optimizer in unwrapped(each)[1:]:
            return type(each).__name__
    return None


def check_optimizer(optimizer: torch.optim.Optimizer, *, once: bool) -> None:
    """Checks that a sparsifier can follow the optimizer.

    Args:
        optimizer: The optimizer.
        once: Whether weights hold other values inside the step, so that nothing else may look at them there.

    Raises:
        TypeError: If it, or one inside it, is a wrapper that runs no step hooks.
        ValueError: If it, or one inside it, is LBFGS or moves weights elsewhere than in a step, or with ``once`` if it
            wraps another one.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"attach takes torch optimizers, got a {type(optimizer).__name__}; pass the one that steps")
    name = type(optimizer).__name__
    if not _runs_hooks(optimizer):
        raise TypeError(
            f"{name} runs no step hooks; attach the torch optimizer, such as the one inside: .optimizer, unless the "
            "wrapper moves weights itself: then let its __init__ call super().__init__()"
        )
    parts = unwrapped(optimizer)
    for part in parts:
        if isinstance(part, torch.optim.LBFGS):
            raise ValueError(
                "LBFGS cannot be attached: one step evaluates the model many times, where no hook can put zeros "
                "back, and its history is one flat vector that no mask fits; take SGD or Adam"
            )
        if not _steps(type(part)):
            raise ValueError(
                f"{type(part).__name__} has no step() and moves weights inside backward(), where no hook can put zeros "
                "back; take an optimizer that is called after it"
            )
        if not _runs_hooks(part):
            raise TypeError(f"the {type(part).__name__} inside {name} runs no step hooks; take one of torch's classes")
    if once and len(parts) > 1:
        raise ValueError(
            f"{name} reads and writes weights around the step of {type(parts[-1]).__name__}, where hidden='trained' "
            "would show it the hidden values; take hidden='frozen'"
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
        raise ValueError(f"{holder} not own {few(missing)}; create it after sparsify, from model.parameters()")
    shared = [name for name, parameter in needed.items() if owners[id(parameter)] > 1]
    if shared:
        raise ValueError(f"two of the optimizers own {few(shared)}; give each weight to one of them")


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


class _Call(dict[str, Any]):
    """The keyword arguments of a running step: as an object of its own, it lives as long as the call."""

    def __init__(self, kwargs: dict[str, Any]) -> None:
        super().__init__(kwargs)
        self.given = kwargs  # perhaps the call of another sparsifier that follows this optimizer


def follow(
    optimizer: torch.optim.Optimizer,
    prepare: Callable[[], None],
    finish: Callable[[bool], None],
    loaded: Callable[[], None],
    *,
    once: bool,
) -> Iterator[RemovableHandle]:
    """Hooks the optimizer and those inside it: calls ``prepare`` before each update and ``finish`` after each step.

    A step is a call of ``step`` within no other one. Where SAM's ``second_step`` or the training loop itself calls the
    optimizer inside, that call is the step.

    Args:
        optimizer: The optimizer.
        prepare: Called when the gradients are there, before the step of the innermost optimizer, or after the closure
            of ``step(closure)``.
        finish: Called with whether the weights were moved; a GradScaler may keep a fused optimizer from moving them.
        loaded: Called after one of the optimizers has loaded a state.
        once: Refuse to evaluate a closure a second time after ``prepare``.

    Yields:
        The hooks' handles, each as soon as the hook is there.
    """
    parts = unwrapped(optimizer)
    order = {part: place for place, part in enumerate(parts)}
    innermost = [part for part in parts if len(unwrapped(part)) == 1]
    prepared = 0  # times within the running step
    open_calls: list[torch.optim.Optimizer] = []  # whose steps are running, outermost first
    running: weakref.ref[_Call] | None = None  # the outermost call

    def ready() -> None:
        nonlocal prepared
        prepare()
        prepared += 1

    def nested(part: torch.optim.Optimizer) -> bool:
        # A wrapper steps the optimizer inside; a step that calls its base class's step runs the hooks twice: then the
        # outer call is alive. A call that has failed may be alive as well, in a traceback that is kept, but then steps
        # are deeper within each other than there are classes whose step has hooks.
        alive = running is not None and running() is not None
        return (
            alive
            and bool(open_calls)
            and order[open_calls[-1]] <= order[part]
            and open_calls.count(part) < _steps_with_hooks(part)
        )

    def before(part: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal prepared, running
        inside = nested(part)
        if not inside:
            prepared = 0
            open_calls.clear()
        prepares = part in innermost and part not in open_calls
        open_calls.append(part)
        if inside and not prepares:
            return None
        closure: Callable[[], Any] | None = args[1] if len(args) > 1 else kwargs.get("closure")
        calls = list(open_calls)

        def closure_then_ready() -> Any:
            assert closure is not None
            if once and prepared:
                raise ValueError(
                    f"{type(optimizer).__name__} calls its closure again within one step, where hidden='trained' would "
                    "show it the hidden values; take hidden='frozen'"
                )
            try:
                loss = closure()
                if prepares:
                    ready()
            except BaseException:
                open_calls.clear()  # the step has failed, unless the optimizer goes on
                raise
            open_calls[:] = open_calls or calls
            return loss

        call = _Call(kwargs)
        if closure is None:
            if prepares:
                ready()
        elif len(args) > 1:
            args = (args[0], closure_then_ready, *args[2:])
        else:
            call["closure"] = closure_then_ready
        if not inside:
            running = weakref.ref(call)
        return args, call

    def after(part: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not open_calls:
            return
        open_calls.pop()
        if open_calls:
            return
        if not prepared and part in innermost:
            raise ValueError(
                f"{type(part).__name__} ignored the closure of step(closure); call the closure first, then step()"
            )
        finish(bool(prepared) and not overflowed(part))

    # A compiled training step leaves the hooks out: a mask update is no graph.
    pre, post = (torch.compiler.disable(hook) for hook in (before, after))  # type: ignore[no-untyped-call]
    for part in parts:
        yield part.register_step_pre_hook(pre)
        yield part.register_step_post_hook(post)
        if hasattr(part, "_optimizer_load_state_dict_post_hooks"):  # wrappers load the one inside, which has them
            yield part.register_load_state_dict_post_hook(lambda _: loaded())


def overflowed(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a GradScaler keeps a fused optimizer from moving the weights in the step that is running."""
    found = getattr(optimizer, "found_inf", None)  # a tensor, set only during the step
    return found is not None and bool(found)


def _steps(kind: type[torch.optim.Optimizer]) -> bool:
    """Whether the class defines a step; one that only raises NotImplementedError is none."""
    code = getattr(inspect.unwrap(kind.step), "__code__", None)
    return code is None or code.co_names != ("NotImplementedError",)


def _runs_hooks(optimizer: torch.optim.Optimizer) -> bool:
    return hasattr(optimizer, "_optimizer_step_pre_hooks") and getattr(type(optimizer).step, "hooked", False)


def _steps_with_hooks(optimizer: torch.optim.Optimizer) -> int:
    """How many of the optimizer's classes define a step that torch has given hooks."""
    steps = (vars(kind).get("step") for kind in type(optimizer).__mro__)
    return sum(getattr(step, "hooked", False) for step in steps)
