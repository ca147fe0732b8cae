"""What is measured while a block runs: which layers are called, and a sketch of their inputs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from openwork.core.masks.inputs import rows
from openwork.core.precision import exact
from openwork.core.seeding import seeded_generator
from openwork.core.selection import Weight

ROWS = 1024
"""How many rows a sketch has."""


class Sketch:
    """A few rows with about the same products with any matrix as all the rows that it has seen (a count sketch).

    Row number i is added to row i mod 1024, with a random sign, so that products of different rows cancel on average.
    Up to 1,024 rows are kept as they are; of more, sums of squares of outputs are right within a few percent.
    """

    def __init__(self, name: str) -> None:
        self.rows: Tensor | None = None
        self.seen = 0
        self._signs = seeded_generator(0, 0, f"{name}/sketch")

    def add(self, more: Tensor) -> None:
        """Adds rows (n, in)."""
        if self.rows is None:
            self.rows = more.new_zeros(ROWS, more.shape[-1])
        signs = torch.randint(2, (len(more), 1), generator=self._signs).to(more) * 2 - 1
        more = more * signs
        while len(more):
            place = self.seen % ROWS
            part, more = more[: ROWS - place], more[ROWS - place :]
            self.rows[place : place + len(part)] += part
            self.seen += len(part)

    def error(self, before: Tensor, after: Tensor) -> float:
        """||X (W - W')||^2 / ||X W||^2 of two matrices (out, in)."""
        assert self.rows is not None
        lost = float((self.rows @ (exact(before) - exact(after)).T.to(self.rows)).double().square().sum())
        whole = float((self.rows @ exact(before).T.to(self.rows)).double().square().sum())
        return lost / whole if whole else 0.0


@contextmanager
def watching(weights: Sequence[Weight]) -> Iterator[dict[str, Sketch]]:
    """Sketches of the inputs of each weight's layer, by name, while these are called."""
    sketches = {weight.name: Sketch(weight.name) for weight in weights}
    hooks = [
        site.module.register_forward_pre_hook(_adding(sketches[weight.name]), with_kwargs=True)
        for weight in weights
        for site in weight.sites
    ]
    try:
        yield sketches
    finally:
        for hook in hooks:
            hook.remove()


def _adding(sketch: Sketch) -> Callable[..., None]:
    def add(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sketch.add(exact(rows(module, args, kwargs)))

    return add


def show_unused(weights: Sequence[Weight], sketches: dict[str, Sketch]) -> list[str]:
    """Calls the layers that no example reached with inputs that are all alike, so that their weights alone decide.

    Args:
        weights: The weights of layers that have been called, or have not.
        sketches: Those of their inputs.

    Returns:
        The names of the weights whose layers were not called; all of them, and none is called, where none was before.
    """
    unused = [weight for weight in weights if not sketches[weight.name].seen]
    if len(unused) == len(weights):
        return [weight.name for weight in unused]
    for weight in unused:
        module = weight.sites[0].module
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
            inputs = weight.layout.shape[2] if weight.layout else 0
            for place in torch.split(torch.arange(inputs, device=weight.parameter.device), 1024):
                module(nn.functional.one_hot(place, inputs).to(weight.parameter.dtype))
    return [weight.name for weight in unused]
