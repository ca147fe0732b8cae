"""All or nothing: a model that is as it was when something raises."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from openwork.core.selection import Weight
from openwork.core.snapshot import snapshot


class Originals:
    """Weights with the values that they had, to put these back."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Weight, Tensor]] = {}

    def keep(self, weight: Weight) -> Tensor:
        """Notes the weight as it is, and returns a copy of it on the CPU; the same copy when it is noted again."""
        if weight.name not in self._known:
            self._known[weight.name] = weight, weight.parameter.detach().to("cpu", copy=True)
        return self._known[weight.name][1]

    def forget(self) -> None:
        """Forgets all: what has been done shall stay."""
        self._known.clear()

    @torch.no_grad()
    def put_back(self) -> None:
        """Gives the weights the values that they had."""
        for weight, value in self._known.values():
            weight.parameter.copy_(value)


@contextmanager
def all_or_nothing(model: nn.Module) -> Iterator[Originals]:
    """Puts weights, buffers and training flags of the model back if something raises inside.

    Yields:
        Where to note weights before they change.
    """
    restore, originals = snapshot(model), Originals()
    try:
        yield originals
    except BaseException:
        restore()
        originals.put_back()
        raise
