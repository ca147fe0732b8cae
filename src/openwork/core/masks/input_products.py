"""X X^T of a layer's inputs: all that a layer-wise least-squares problem needs to know of its data."""

from dataclasses import dataclass

import torch
from torch import Tensor

from openwork.core.masks.evidence import Evidence, Kept, View

_PANELS = 6
"""Panels of columns, of whose products with each other only one half is computed, since they are symmetric."""

_NARROW = 64
"""Columns of a panel at least."""


@dataclass(frozen=True)
class InputProducts(Evidence):
    """The sum over all rows x of the outer products x xᵀ, and how many rows there were.

    "products" is (in, in) or (in * kernel, in * kernel), in float32 at least; where a weight holds several matrices,
    such as those of experts, it is (matrices, in, in). "rows" is a whole number, or one for each matrix.
    """

    def input(self, kept: Kept, rows: Tensor) -> None:
        """Adds the products of these rows."""
        size = rows.shape[-1]
        if "products" not in kept:
            kept["products"] = rows.new_zeros(size, size)
            kept["rows"] = torch.zeros((), dtype=torch.int64, device="cpu")
        add_products(kept["products"], rows)
        kept["rows"] += len(rows)


def products_of(view: View) -> Tensor:
    """What `InputProducts` kept, (matrices, in * kernel, in * kernel), also where there is one matrix."""
    products = view.evidence["products"]
    return products if products.dim() == 3 else products[None]


def wanda_scores(view: View) -> Tensor:
    """|W_ij| * ||X_j||_2, for the allocations of techniques that solve."""
    return view.weight.abs() * view.per_input(products_of(view).diagonal(dim1=1, dim2=2).sqrt())


def add_products(products: Tensor, rows: Tensor) -> None:
    """Adds ``rows.T @ rows`` to ``products``, in place, in little more than half the time of the whole product.

    Args:
        products: (in, in), symmetric.
        rows: (n, in), of the same dtype.
    """
    size = len(products)
    width = max(_NARROW, -(-size // _PANELS))
    for begin in range(0, size, width):
        end = min(begin + width, size)
        products[begin:end, begin:].addmm_(rows[:, begin:end].T, rows[:, begin:])
        products[end:, begin:end] = products[begin:end, end:].T
