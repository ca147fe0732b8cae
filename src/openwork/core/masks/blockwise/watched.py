"""What is measured while a block runs: which layers are called, and a sketch of their inputs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from openwork.core.masks.blockwise.blocks import is_expert
from openwork.core.masks.blockwise.chains import first_tensor
from openwork.core.masks.evidence import Kept
from openwork.core.masks.input_products import InputProducts
from openwork.core.masks.shown import are_multiplied, number_of_matrices, show_alike, showing_inputs
from openwork.core.precision import exact, where_float64_is
from openwork.core.seeding import seeded_generator
from openwork.core.selection import Weight

ROWS = 1024
"""How many rows the sketch of a layer has."""


class Sketch:
    """A few rows with about the same products with any matrix as all the rows that it has seen (a count sketch).

    Row number i is added to row i mod ``size``, with a random sign, so that products of different rows cancel on
    average. Up to ``size`` rows are kept as they are; of 1,024 and more, sums of squares of outputs are right within a
    few percent.
    """

    def __init__(self, name: str, size: int = ROWS) -> None:
        self.rows: Tensor | None = None
        self.size, self.seen = size, 0
        self._signs = seeded_generator(0, 0, f"{name}/sketch")

    def add(self, more: Tensor) -> None:
        """Adds rows (n, in)."""
        if self.rows is None:
            self.rows = more.new_zeros(self.size, more.shape[-1])
        signs = torch.randint(2, (len(more), 1), generator=self._signs, device="cpu").to(more) * 2 - 1
        more = more * signs
        while len(more):
            place = self.seen % self.size
            part, more = more[: self.size - place], more[self.size - place :]
            self.rows[place : place + len(part)] += part
            self.seen += len(part)

    def squares(self, matrix: Tensor) -> float:
        """||X M||^2 for a matrix (out, in)."""
        if self.rows is None:
            return 0.0
        squares = where_float64_is((self.rows @ exact(matrix).T.to(self.rows)).square())
        return float(squares.sum(dtype=torch.float64))


class Inputs:
    """What is kept of the inputs of a weight's layer, or of each of its experts.

    Args:
        weight: The weight.
        products: Whether the sums of their products are kept, too.
    """

    def __init__(self, weight: Weight, *, products: bool) -> None:
        matrices = number_of_matrices(weight)
        size = max(ROWS // matrices, 64)
        self.sketches = [Sketch(f"{weight.name}/{number}", size) for number in range(matrices)]
        self._kept: list[Kept] | None = [{} for _ in range(matrices)] if products else None
        self.called = False
        """Whether a module that holds several matrices got tokens."""

    def add(self, number: int, found: Tensor) -> None:
        """Adds rows of one matrix."""
        if len(found):
            found = exact(found)
            self.sketches[number].add(found)
            if self._kept is not None:
                InputProducts().input(self._kept[number], found)

    def note_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Notes a call with tokens, as a hook of the module."""
        tokens = first_tensor((args, kwargs))
        self.called |= tokens is None or tokens.numel() > 0

    @property
    def seen(self) -> int:
        """How many rows there were."""
        return sum(sketch.seen for sketch in self.sketches)

    def products(self) -> Tensor:
        """X X^T, (in, in), or (matrices, in, in) with 0 where there were no rows."""
        assert self._kept is not None
        like = next(kept["products"] for kept in self._kept if kept)
        found = [kept["products"] if kept else torch.zeros_like(like) for kept in self._kept]
        return found[0] if len(found) == 1 else torch.stack(found)

    def error(self, before: Tensor, after: Tensor) -> float:
        """||X (W - W')||^2 / ||X W||^2 of matrices (matrices, out, in)."""
        pairs = [*zip(self.sketches, before, after, strict=True)]
        lost = sum(sketch.squares(exact(old) - exact(new)) for sketch, old, new in pairs)
        whole = sum(sketch.squares(old) for sketch, old, _ in pairs)
        return lost / whole if whole else 0.0


@contextmanager
def watching(weights: Sequence[Weight], *, products: bool = False) -> Iterator[dict[str, Inputs]]:
    """What is kept of the inputs of each weight's layer, by the weight's name, while the model runs.

    Args:
        weights: The weights.
        products: Whether the sums of their products are kept, too.
    """
    seen = {weight.name: Inputs(weight, products=products) for weight in weights}
    with ExitStack() as stack:
        stack.enter_context(showing_inputs(weights, lambda weight, number, found: seen[weight.name].add(number, found)))
        for weight in filter(are_multiplied, weights):
            hook = weight.sites[0].module.register_forward_pre_hook(seen[weight.name].note_call, with_kwargs=True)
            stack.callback(hook.remove)
        yield seen


def show_unused(weights: Sequence[Weight], seen: Mapping[str, Inputs]) -> list[str]:
    """Shows for layers that no example reached inputs that are all alike, so that their weights alone decide.

    Args:
        weights: The weights of layers that have been called, or have not.
        seen: Their inputs.

    Returns:
        The names of these weights. Nothing is shown for experts that got tokens and multiplied them unseen, nor where
        no layer was called and any is more than an expert, which a router may pass by.
    """
    unused = [weight for weight in weights if not seen[weight.name].seen]
    if len(unused) < len(weights) or all(is_expert(weight) for weight in unused):
        for weight in unused:
            if not seen[weight.name].called:
                show_alike(weight)
    return [weight.name for weight in unused]
