"""Chains: blocks of which each gets the output of the one before, and nothing else that depends on it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from openwork.core.masks.blockwise.blocks import Block
from openwork.core.masks.blockwise.examples import Example, copied
from openwork.core.names import few

Place = int | str
"""Which argument of a block is the output of the one before: its position or its name."""


def first_tensor(values: Any) -> Tensor | None:
    """The first tensor in what a module is called with or returns; None where there is none."""
    return next((each for each in tree_leaves(values) if isinstance(each, Tensor)), None)


@dataclass(frozen=True)
class Call:
    """One call of a block.

    Args:
        args: By position.
        kwargs: By name.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def at(self, place: Place) -> Any:
        """The argument at a place; None where there is none."""
        if isinstance(place, str):
            return self.kwargs.get(place)
        return self.args[place] if place < len(self.args) else None

    def put(self, place: Place, value: Any) -> "Call":
        """The same call with another argument at a place."""
        if isinstance(place, str):
            return Call(self.args, self.kwargs | {place: value})
        return Call((*self.args[:place], value, *self.args[place + 1 :]), self.kwargs)


@dataclass(frozen=True)
class Shell:
    """What a block returns: its output alone, or a tuple that begins with it.

    Args:
        kind: The type of what is returned.
        rest: What comes after the output, None in the place of tensors.
    """

    kind: type[Any]
    rest: tuple[Any, ...] = ()

    def around(self, output: Any) -> Any:
        """What the block would return with this output."""
        return output if issubclass(self.kind, Tensor) else self.kind((output, *self.rest))


def opened(returned: Any) -> tuple[Tensor | None, Shell]:
    """The output in what a block returned, None where there is none, and its shell."""
    if isinstance(returned, Tensor):
        return returned, Shell(Tensor)
    if type(returned) in (tuple, list) and returned and isinstance(returned[0], Tensor):
        # Whatever else there is must not matter: where it does, the next block's arguments will show it.
        rest = (each if isinstance(each, bool | int | float | str) else None for each in returned[1:])
        return returned[0], Shell(type(returned), tuple(rest))
    return None, Shell(type(returned))


@dataclass(frozen=True)
class Chain:
    """Blocks that can run without the model around them.

    Args:
        blocks: The blocks, in the order in which they are called.
        place: Where each gets the output of the one before.
        whole: Whether the model has to run to its end, since it calls a block several times.
        shells: What each returns.
    """

    blocks: tuple[Block, ...]
    place: Place = 0
    whole: bool = False
    shells: tuple[Shell, ...] = ()

    def capture(self, model: nn.Module, example: Example) -> list[list[Call]]:
        """The calls of each block; those of all but the first one lack what the first one computes.

        The blocks do not run: each hands on what it got.
        """
        calls: list[list[Call]] = [[] for _ in self.blocks]
        with ExitStack() as stack:
            for number, block in enumerate(self.blocks):
                last = number == len(self.blocks) - 1
                instead = self._handing_on(block.module, calls[number], None if last else self.shells[number])
                stack.enter_context(forward_of(block.module, instead))
            run_until_stopped(model, example)
        return calls

    def holds(self, calls: Sequence[Sequence[Call]]) -> bool:
        """Whether these calls of its blocks, which an example has shown, are those of a chain."""
        if len(self.blocks) == 1:
            return True
        if any(len(of_block) != 1 for of_block in calls):
            return False
        return all(after.at(self.place) is before.at(self.place) for (before,), (after,) in pairwise(calls))

    def _handing_on(self, module: nn.Module, calls: list[Call], shell: Shell | None) -> Callable[..., Any]:
        forward = module.forward

        def instead(*args: Any, **kwargs: Any) -> Any:
            if self.whole:
                calls.append(Call(*copied((args, kwargs))))
                return forward(*args, **kwargs)
            call = Call(args, kwargs)
            calls.append(call)
            if shell is None:
                raise _Stop
            return shell.around(call.at(self.place))

        return instead


def find_chains(model: nn.Module, blocks: Sequence[Block], example: Example) -> list[Chain]:
    """The chains that the blocks form, in the order in which the model calls them.

    Args:
        model: The model.
        blocks: Its blocks.
        example: The inputs with which the model is run, once as it is, and once without what the blocks compute.

    Raises:
        ValueError: If the model does not call a block.
    """
    seen = _watch(model, blocks, example)
    if missed := [block.name for block in blocks if block.name not in seen]:
        raise ValueError(
            f"the model does not call {few(missed)} with the first batch; give it all inputs, or leave the weights in "
            f"it out with select=excluding({missed[0]!r})"
        )
    chains: list[Chain] = []
    for one in seen.values():
        last = chains[-1] if chains else None
        if len(one.calls) > 1 or one.link is None or last is None or last.whole:
            chains.append(Chain((one.block,), whole=len(one.calls) > 1, shells=(one.shell,)))
        elif len(last.blocks) == 1 or last.place == one.link:
            chains[-1] = Chain((*last.blocks, one.block), one.link, shells=(*last.shells, one.shell))
        else:
            chains.append(Chain((one.block,), shells=(one.shell,)))
    return [part for chain in chains for part in _checked(model, chain, example, seen)]


@dataclass
class _Seen:
    """What the model was seen to do with a block."""

    block: Block
    calls: list[Call]
    link: Place | None  # where it gets the output of the block before
    shell: Shell = field(default=Shell(Tensor))


def _checked(model: nn.Module, chain: Chain, example: Example, seen: Mapping[str, _Seen]) -> Iterator[Chain]:
    """The chain, cut before blocks whose other arguments depend on what blocks of the chain compute."""
    if len(chain.blocks) == 1:
        yield chain
        return
    try:
        calls = chain.capture(model, example)
    except Exception:  # the model looks at what a block gives it
        calls = [[] for _ in chain.blocks]
    start = 0
    for number, block in enumerate(chain.blocks):
        then = seen[block.name].calls[0]
        now = calls[number][0] if calls[number] else None
        if number and (now is None or not _same(now.put(chain.place, None), then.put(chain.place, None))):
            yield Chain(chain.blocks[start:number], chain.place, shells=chain.shells[start:number])
            start = number
    yield Chain(chain.blocks[start:], chain.place, shells=chain.shells[start:])


def _watch(model: nn.Module, blocks: Sequence[Block], example: Example) -> dict[str, _Seen]:
    """What the model does with each block, in the order of the first calls."""
    seen: dict[str, _Seen] = {}
    last: list[tuple[Tensor, int]] = []  # the last block's output, and its version

    def before(block: Block) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            call = Call(args, kwargs)
            places: list[Place] = [*range(len(args)), *kwargs]
            # Where somebody has written to the output since, the block alone would not give it.
            links = [p for p in places for output, then in last if call.at(p) is output and output._version == then]
            one = seen.setdefault(block.name, _Seen(block, [], links[0] if links else None))
            one.calls.append(call)
            last.clear()

        return hook

    def after(block: Block) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], returned: Any) -> None:
            output, seen[block.name].shell = opened(returned)
            last[:] = [] if output is None else [(output, output._version)]

        return hook

    hooks = [block.module.register_forward_pre_hook(before(block), with_kwargs=True) for block in blocks]
    hooks += [block.module.register_forward_hook(after(block), with_kwargs=True) for block in blocks]
    try:
        example.run(model)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _same(a: Any, b: Any) -> bool:
    """Whether two arguments are equal, bit for bit."""
    if isinstance(a, Call) and isinstance(b, Call):
        return _same(a.args, b.args) and _same(a.kwargs, b.kwargs)
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (a.shape == b.shape and a.dtype == b.dtype and bool((a == b).all()))
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    plain = bool | int | float | str | None
    return a is b or (isinstance(a, plain) and isinstance(b, plain) and a == b)


class _Stop(BaseException):
    """Ends a forward of which the rest is not needed; nothing that a model catches."""


def run_until_stopped(model: nn.Module, example: Example) -> None:
    """Runs the model until a block stops it, or to its end."""
    with suppress(_Stop):
        example.run(model)


@contextmanager
def forward_of(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """The module with another forward."""
    own = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
