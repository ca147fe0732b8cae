"""Running a model on what its user gives: one input, a tuple of arguments, or a mapping of keyword arguments."""

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from openwork.words import count


def arguments_of(sample: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments by position and by name that ``sample`` holds."""
    if isinstance(sample, Mapping):
        return (), dict(sample)
    return (sample if isinstance(sample, tuple) else (sample,)), {}


def call(model: nn.Module, sample: Any) -> Any:
    """The output of ``model`` for ``sample``."""
    cure = "give one input, a tuple of arguments or a mapping of keyword arguments"
    return _called(model, *arguments_of(sample), cure)


def call_on_batch(model: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
    """The output of ``model`` for what `inputs_of` found in a batch."""
    cure = (
        "make each batch a dict of all arguments that forward needs, by name, as a model gets only the first element "
        "of a tuple or list"
    )
    return _called(model, arguments, keywords, cure)


def _called(model: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any], cure: str) -> Any:
    """The model's output; to a TypeError a note says what the model was called with, and a cure if this does not fit.

    Only the call shows whether arguments fit: hooks and decorators may supply what they lack.
    """
    try:
        return model(*arguments, **keywords)
    except TypeError as error:
        names = f"the arguments {', '.join(map(str, keywords))}" if keywords else count(len(arguments), "argument")
        error.add_note(f"{type(model).__name__} was called with {names}; if these do not fit, {cure}")
        raise


def check_batches(batches: object) -> None:
    """Raises TypeError for what is no list or loader of batches."""
    if isinstance(batches, Tensor | Mapping) or not hasattr(batches, "__iter__"):
        raise TypeError(f"batches must be a list or loader of batches, got a {type(batches).__name__}; pass [batch]")


def inputs_of(model: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The model's arguments by position and by name for a batch as loaders give it, on the model's device.

    Args:
        model: The model.
        batch: Of a tuple or list, such as (x, y), the model gets the first element; of a dict those entries that its
            forward takes, as keyword arguments; anything else as it is.

    Raises:
        TypeError: If the batch holds nothing that the model takes.
    """
    whole = batch
    while isinstance(batch, tuple | list) and batch:
        batch = batch[0]
    device = next((tensor.device for tensor in chain(model.parameters(), model.buffers())), None)
    if not isinstance(batch, Mapping):
        if isinstance(batch, tuple | list):
            raise TypeError(f"a batch must hold an input for the model, got {whole!r}")
        return (batch.to(device) if isinstance(batch, Tensor) else batch,), {}
    taken = inspect.signature(model.forward).parameters
    everything = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken.values())
    inputs = {name: value for name, value in batch.items() if everything or name in taken}
    if not inputs:
        raise TypeError(
            f"a batch has the entries {', '.join(map(str, batch))}, and {type(model).__name__}.forward takes "
            f"{', '.join(taken) or 'nothing'}; name the entries as its arguments"
        )
    return (), {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}


def copied(sample: Any) -> Any:
    """The sample again, for a forward pass that may change it: a cache of keys grows, a tensor is written in place."""
    made: dict[int, Any] = {}  # what is one object stays one: attention asks whether its query is its key

    def one(leaf: Any) -> Any:
        if id(leaf) not in made:
            made[id(leaf)] = _copied(leaf)
        return made[id(leaf)]

    return tree_map(one, sample)


def _copied(leaf: Any) -> Any:
    try:
        return copy.deepcopy(leaf.detach() if isinstance(leaf, Tensor) else leaf)
    except Exception:  # an object that cannot be copied
        return leaf


@contextmanager
def plain_attention() -> Iterator[None]:
    """Without the fused kernels of torch's encoder layers, which read the weights of the layers that they replace."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def first_line(error: BaseException) -> str:
    """What an error says, in a line to quote within a sentence; its type where it says nothing."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300].rstrip(".;:!")
