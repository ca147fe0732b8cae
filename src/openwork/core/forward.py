"""Running a model on what its user gives: one input, a tuple of arguments, or a mapping of keyword arguments."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def arguments_of(sample: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments by position and by name that ``sample`` holds."""
    if isinstance(sample, Mapping):
        return (), dict(sample)
    return (sample if isinstance(sample, tuple) else (sample,)), {}


def call(model: nn.Module, sample: Any) -> Any:
    """The output of ``model`` for ``sample``."""
    arguments, keywords = arguments_of(sample)
    return model(*arguments, **keywords)


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
