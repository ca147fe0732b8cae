"""The inputs of a layer as rows: what each of its outputs multiplies with its weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openwork.core.layout import layout_of
from openwork.core.masks.attention import attended, attention_of
from openwork.core.selection import Site

_COUNTED: ContextVar[Sequence[Tensor]] = ContextVar("counted", default=())


@contextmanager
def counting(counted: Sequence[Tensor]) -> Iterator[None]:
    """Leaves positions that do not count, such as padding, out of `rows`.

    Args:
        counted: Masks, True where a position counts, (batch, positions) or the other way round; each for what has these
            many positions.
    """
    token = _COUNTED.set(counted)
    try:
        yield
    finally:
        _COUNTED.reset(token)


def counted_in(masks: Sequence[Tensor], shape: torch.Size) -> Tensor | None:
    """The mask of these that is for positions of this shape, which may be one axis, in this shape; None if none is."""
    for mask in masks:
        if shape in (mask.shape, (mask.numel(),)):
            return mask.reshape(shape)
    return next((mask.T for mask in masks if mask.T.shape == shape), None)


def observable(site: Site) -> None:
    """Raises ValueError for a weight whose inputs neither `rows` can arrange nor `Multiplied` can see."""
    module = site.module
    layout = layout_of(module, site.leaf, getattr(module, site.leaf).shape)
    if layout is not None and layout.shape[0] > 1 and len(layout.shape) == 3:
        return  # experts
    if attention_of(site) is not None:
        return
    # MultiheadAttention reads the weight of this one, and never calls it.
    read = type(module).__name__ == "NonDynamicallyQuantizableLinear"
    plain = (isinstance(module, nn.Linear) and not read) or type(module).__name__ == "Conv1D"
    if site.leaf != "weight" or not (plain or isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)):
        raise ValueError(
            f"the inputs of {site.name} ({type(module).__name__}) cannot be observed, only those of Linear, Conv1D, "
            f"experts, MultiheadAttention and convolutions; leave it out with select=excluding({site.name!r})"
        )


def caller_of(site: Site) -> nn.Module:
    """The module whose calls show the inputs of a weight."""
    return attention_of(site) or site.module


def rows(site: Site, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sequence[Tensor]:
    """The inputs of each matrix of a weight as one row for each output position: (n, in), or (n, in * kernel).

    Args:
        site: The weight; see `observable` for those that this function knows.
        args: The positional arguments that its `caller_of` is called with.
        kwargs: The keyword arguments; the first one is the input where ``args`` is empty.
    """
    module = site.module
    if (attention := attention_of(site)) is not None:
        x = attended(site, attention, args, kwargs).detach()
    else:
        x = (args[0] if args else next(iter(kwargs.values()))).detach()
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        # A layer that sees some of the positions only, such as an expert, does not say which.
        counted = counted_in(_COUNTED.get(), x.shape[:-1])
        return [x.reshape(-1, x.shape[-1]) if counted is None else x[counted.to(x.device)]]
    dimensions = len(module.kernel_size)
    if x.dim() == dimensions + 1:  # one example without a batch dimension
        x = x.unsqueeze(0)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    for axis, (size, step, gap) in enumerate(zip(module.kernel_size, module.stride, module.dilation, strict=True), 2):
        x = x.unfold(axis, gap * (size - 1) + 1, step)[..., ::gap]
    # (N, in, out..., kernel...) -> (groups, N, out..., in / groups, kernel...)
    x = x.reshape(len(x), module.groups, -1, *x.shape[2:]).movedim(1, 0).movedim(2, dimensions + 2)
    return [*x.flatten(dimensions + 2).flatten(1, dimensions + 1)]
