"""Hooks around the steps of an optimizer and of those inside it, which run within each other."""

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from openwork.core.optimizers import overflowed, unwrapped


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
    steps = _Steps(optimizer, prepare, finish, once=once)
    # A compiled training step leaves the hooks out: a mask update is no graph.
    pre, post = (torch.compiler.disable(hook) for hook in (steps.before, steps.after))  # type: ignore[no-untyped-call]
    for part in steps.parts:
        yield part.register_step_pre_hook(pre)
        yield part.register_step_post_hook(post)
        if hasattr(part, "_optimizer_load_state_dict_post_hooks"):  # wrappers load the one inside, which has them
            yield part.register_load_state_dict_post_hook(lambda _: loaded())


def capturing() -> bool:
    """Whether what is launched now goes into a CUDA graph, and so computes nothing until the graph is replayed."""
    initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return initialized and torch.cuda.is_current_stream_capturing()


class _Call(dict[str, Any]):
    """The keyword arguments of a running step: as an object of its own, it lives as long as the call."""

    def __init__(self, kwargs: dict[str, Any]) -> None:
        super().__init__(kwargs)
        self.given = kwargs  # perhaps the call of another sparsifier that follows this optimizer


class _Steps:
    """Tells which calls of ``step`` are steps, and which are only a part of one.

    Attributes:
        parts: The optimizer, then those inside it.
        innermost: Those that move the weights by the gradients.
        running: The optimizers whose ``step`` is running, outermost first; none after a closure has failed.
        outermost: The call of the first of them, dead as soon as it has returned or failed.
        prepared: How often `prepare` was called within it.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        prepare: Callable[[], None],
        finish: Callable[[bool], None],
        *,
        once: bool,
    ) -> None:
        self.prepare, self.finish, self.once = prepare, finish, once
        self.parts = unwrapped(optimizer)
        self.innermost = [part for part in self.parts if len(unwrapped(part)) == 1]
        self.running: tuple[torch.optim.Optimizer, ...] = ()
        self.outermost: Callable[[], _Call | None] = lambda: None
        self.prepared = 0

    def before(self, part: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The pre-hook: returns the arguments to step with, or None for those given."""
        nested = self.nested(part)
        if not nested:
            self.running, self.prepared = (), 0
        prepares = part in self.innermost and part not in self.running
        self.running += (part,)
        if nested and not prepares:
            return None
        call = _Call(kwargs)
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            if prepares:
                self.ready()
        elif len(args) > 1:
            args = (args[0], self.watched(closure, prepares), *args[2:])
        else:
            call["closure"] = self.watched(closure, prepares)
        if not nested:
            self.outermost = weakref.ref(call)  # at last, since a step whose `prepare` fails does not run
        return args, call

    def after(self, part: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The post-hook: finishes the step, if it was the outermost call that has returned."""
        if not self.running:
            return
        self.running = self.running[:-1]
        if self.running:
            return
        if not self.prepared and part in self.innermost:
            raise ValueError(
                f"{type(part).__name__} ignored the closure of step(closure); call the closure first, then step()"
            )
        self.finish(bool(self.prepared) and not overflowed(part))

    def nested(self, part: torch.optim.Optimizer) -> bool:
        """Whether a call that begins now is within the one that runs.

        A wrapper steps the optimizer inside; a step that calls its base class's step runs the hooks twice: then the
        outer call is alive. A call that has failed may be alive as well, in a traceback that is kept, but then steps
        are deeper within each other than there are classes whose step has hooks.
        """
        return (
            self.outermost() is not None
            and bool(self.running)
            and self.parts.index(self.running[-1]) <= self.parts.index(part)
            and self.running.count(part) < _steps_with_hooks(part)
        )

    def ready(self) -> None:
        """Prepares an update, now that its gradients are there."""
        self.prepare()
        self.prepared += 1

    def watched(self, closure: Callable[[], Any], prepares: bool) -> Callable[[], Any]:
        """The closure, which also prepares the update if it ``prepares``, and tells when it fails."""
        running = self.running

        def evaluate() -> Any:
            if self.once and self.prepared:
                raise ValueError(
                    f"{type(self.parts[0]).__name__} calls its closure again within one step, where hidden='trained' "
                    "would show it the hidden values; take hidden='frozen'"
                )
            try:
                loss = closure()
                if prepares:
                    self.ready()
            except BaseException:
                self.running = ()  # the step has failed, unless the optimizer goes on
                raise
            self.running = self.running or running  # it has gone on, and tried again
            return loss

        return evaluate


def _steps_with_hooks(optimizer: torch.optim.Optimizer) -> int:
    """How many of the optimizer's classes define a step that torch has given hooks."""
    steps = (vars(kind).get("step") for kind in type(optimizer).__mro__)
    return sum(getattr(step, "hooked", False) for step in steps)
