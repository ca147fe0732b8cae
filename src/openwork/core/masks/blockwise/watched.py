"""What is measured while a block runs: which layers are called, and a sketch of their inputs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from openwork.core.masks.evidence import Kept
from openwork.core.masks.input_products import InputProducts
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


class Inputs:
    """What is kept of the inputs of one weight's layer.

    Args:
        name: The weight's name.
        products: Whether the sum of their products is kept, too.
    """

    def __init__(self, name: str, *, products: bool) -> None:
        self.sketch = Sketch(name)
        self.kept: Kept | None = {} if products else None

    def add(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Adds those of a call; a hook."""
        found = exact(rows(module, args, kwargs))
        self.sketch.add(found)
        if self.kept is not None:
            InputProducts().input(self.kept, found)


@contextmanager
def watching(weights: Sequence[Weight], *, products: bool = False) -> Iterator[dict[str, Inputs]]:
    """What is kept of the inputs of each weight's layer, by the weight's name, while these layers are called.

    Args:
        weights: The weights.
        products: Whether the sums of their products are kept, too.
    """
    seen = {weight.name: Inputs(weight.name, products=products) for weight in weights}
    hooks = [
        site.module.register_forward_pre_hook(seen[weight.name].add, with_kwargs=True)
        for weight in weights
        for site in weight.sites
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def show_unused(weights: Sequence[Weight], seen: Mapping[str, Inputs]) -> list[str]:
    """Calls the layers that no example reached with inputs that are all alike, so that their weights alone decide.

    Args:
        weights: The weights of layers that have been called, or have not.
        seen: Their inputs.

    Returns:
        The names of the weights whose layers were not called; all of them, and none is called, where none was before.
    """
    unused = [weight for weight in weights if not seen[weight.name].sketch.seen]
    if len(unused) == len(weights):
        return [weight.name for weight in unused]
    for weight in unused:
        module = weight.sites[0].module
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
            inputs = weight.layout.shape[2] if weight.layout else 0
            for place in torch.split(torch.arange(inputs, device=weight.parameter.device), 1024):
                module(nn.functional.one_hot(place, inputs).to(weight.parameter.dtype))
    return [weight.name for weight in unused]
