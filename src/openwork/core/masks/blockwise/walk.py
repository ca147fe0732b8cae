"""The walk through a model's blocks: each runs on what the blocks before it, as they are now, make of the examples."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from openwork.core.masks.blockwise.blocks import Block
from openwork.core.masks.blockwise.chains import Call, Chain, find_chains, first_tensor, forward_of, opened
from openwork.core.masks.blockwise.examples import Example, at_rest, copied
from openwork.core.masks.blockwise.mixtures import alone, has_padding, mixtures_in, tokens_alone
from openwork.core.masks.blockwise.padding import lying
from openwork.core.masks.inputs import counted_in, counting

Run = Callable[[nn.Module], None]
"""Runs a block on all its inputs; the argument is not used."""


def walk(
    model: nn.Module,
    blocks: Sequence[Block],
    examples: Sequence[Example],
    visit: Callable[[Block, Run], None],
    device: torch.device | None = None,
) -> None:
    """Visits block after block, in the order in which the model calls them.

    Where a block gets the output of the one before, only these two run; otherwise the model runs up to the block.

    Args:
        model: The model.
        blocks: Its blocks.
        examples: The inputs of the model.
        visit: Called with each block and a function that runs it on its inputs; it may change the block's weights.
        device: Where blocks run; None where they are. What the model holds comes back to its place.

    Raises:
        ValueError: If the model does not call a block, or a block gives NaN or infinities.
    """
    with at_rest(model), ExitStack() as stack:
        for module in [block.module for block in blocks]:
            if device is not None:
                stack.enter_context(forward_of(module, _there(module, device)))
        for chain in find_chains(model, blocks, examples[0]):
            _along(model, chain, examples, visit, device)


def _along(
    model: nn.Module,
    chain: Chain,
    examples: Sequence[Example],
    visit: Callable[[Block, Run], None],
    device: torch.device | None,
) -> None:
    calls = [chain.capture(model, example) for example in examples]
    if not all(chain.holds(calls_of) for calls_of in calls):  # what the model does depends on the batch
        for block in chain.blocks:
            _along(model, Chain((block,), whole=True), examples, visit, device)
        return
    for number, block in enumerate(chain.blocks):
        now = [calls_of[number] for calls_of in calls]
        for place, (example, several) in enumerate(zip(examples, now, strict=True)):
            for call in several:
                _check(block, place, example, call.at(chain.place))

        with moved(block.module, device):
            run = _runs(model, block, [*zip(examples, now, strict=True)])
            visit(block, run)
            if number + 1 == len(chain.blocks):
                continue
            for calls_of in calls:
                (call,), (following,) = calls_of[number], calls_of[number + 1]
                output, _ = opened(block.module(*call.args, **call.kwargs))
                assert output is not None
                calls_of[number] = []
                calls_of[number + 1] = [following.put(chain.place, output)]


def _runs(model: nn.Module, block: Block, given: Sequence[tuple[Example, Sequence[Call]]]) -> Run:
    """Runs the block on all its inputs, of which it shows what is no padding."""
    calls = [
        (call, lying(example.counted, block.module, first_tensor((call.args, call.kwargs))))
        for example, some in given
        for call in some
    ]

    def one(call: Call, counted: Sequence[Tensor], mixtures: Sequence[nn.Module]) -> None:
        args, kwargs = copied((call.args, call.kwargs))
        with counting(counted), tokens_alone(mixtures, counted):
            block.module(*args, **kwargs)

    mixtures: list[nn.Module] = []
    if found := mixtures_in(model, block.weights, block.module):
        for call, counted in [each for each in calls if has_padding(each[1])][:1]:
            mixtures = alone(found, counted, partial(one, call, (), ()))

    def run(_: nn.Module) -> None:
        for call, counted in calls:
            one(call, counted, mixtures)

    return run


def _there(module: nn.Module, device: torch.device) -> Callable[..., Any]:
    """The module's forward on a device, for inputs that lie elsewhere and outputs that are to lie there."""
    forward = module.forward

    def run(*args: Any, **kwargs: Any) -> Any:
        homes = [each.device for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        with moved(module, device):
            returned = forward(*to(args, device), **to(kwargs, device))
        return to(returned, homes[0]) if homes else returned

    return run


def _check(block: Block, place: int, example: Example, value: Any) -> None:
    """Raises ValueError for an input that is not finite, but for padding."""
    if not (isinstance(value, Tensor) and value.is_floating_point()):
        return
    if (counted := counted_in(lying(example.counted, block.module, value), value.shape[:2])) is not None:
        value = value[counted.to(value.device)]
    if not value.isfinite().all():
        raise ValueError(
            f"the inputs of {block.name} are NaN or infinite for batch {place}; leave that batch out, or run the model "
            "in float32"
        )


def to(value: Any, device: torch.device) -> Any:
    """The value with all tensors in it on a device."""
    return tree_map(lambda each: each.to(device) if isinstance(each, Tensor) else each, value)


@contextmanager
def moved(module: nn.Module, device: torch.device | None) -> Iterator[None]:
    """The module with its parameters and buffers on a device; they go back to where they were."""
    tensors = [] if device is None else [*module.parameters(), *module.buffers()]
    homes = [tensor.device for tensor in tensors]
    for tensor in tensors:
        tensor.data = tensor.data.to(device)
    try:
        yield
    finally:
        for tensor, home in zip(tensors, homes, strict=True):
            tensor.data = tensor.data.to(home)
